//! Lines on stdout, for whoever reads them.

use std::fmt::Arguments;
use std::io::Write as _;

/// Prints like `print!`, with a line's end where [`out!`](crate::out!) asks for it.
///
/// Where the reader has gone, as `head` does when it has seen enough, nothing is left to do: the process ends, and that
/// is no failure. `println!` would panic.
pub(crate) fn write(text: Arguments<'_>, end: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.write_all(end.as_bytes()));
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: stdout: {error}");
            std::process::exit(1);
        }
    }
}

/// A line on stdout.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::out::write(format_args!($($text)*), "\n") };
}
