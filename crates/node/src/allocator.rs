//! How the C library's allocator divides memory among threads.

/// Lets all threads share one heap. To be called before there is another thread; elsewhere than with glibc it does
/// nothing.
///
/// glibc gives threads heaps of their own, and each keeps what its threads freed: the thread that loads a network leaves
/// the file and the decoded weights in one, and the one that runs it takes its activations from another. One heap costs
/// threads that allocate at the same time about a tenth of their speed (tract), and one thread nothing that is seen; a
/// coordinator with thousands of sessions neither, and it grows half as much with what it has behind it.
pub fn one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the C library has no other door")]
    // SAFETY: takes two numbers, locks what it changes, and may be called at any time. It returns 0 for a number out of
    // range, which this is not.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
