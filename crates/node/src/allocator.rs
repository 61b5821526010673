//! What the C library's allocator keeps of a network's file once the network is loaded.

/// Loads a network, and gives back what loading it used.
///
/// glibc raises the size from which a block is a mapping of its own, given back when it is freed, with every such block
/// that is freed: after the network's file, weights lie in the heap, and what was between them is never given back. While
/// a network is loaded that size is therefore held at its default; afterwards it is where glibc itself would have ended,
/// so that activations are not mapped anew for every operator. Elsewhere than with glibc this only calls `load`.
pub(crate) fn loading<T>(load: impl FnOnce() -> T) -> T {
    limits::set(limits::LOADING);
    let loaded = load();
    limits::set(limits::RUNNING);
    loaded
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod limits {
    /// glibc's default.
    pub(super) const LOADING: libc::c_int = 128 << 10;
    /// The most that glibc takes.
    pub(super) const RUNNING: libc::c_int = 32 << 20;

    #[expect(unsafe_code, reason = "a setting of the C library's allocator")]
    pub(super) fn set(bytes: libc::c_int) {
        // SAFETY: takes two numbers, locks what it changes, and may be called from any thread at any time. It returns 0
        // for a number out of range, which these are not.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
            libc::mallopt(libc::M_TRIM_THRESHOLD, bytes);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod limits {
    pub(super) const LOADING: () = ();
    pub(super) const RUNNING: () = ();

    pub(super) fn set((): ()) {}
}
