//! The C library's heap: how much of what was freed it keeps.

/// Makes freed memory go back to the system: blocks of 1 MiB or more at once, and the rest from few arenas. By default glibc
/// raises that limit to the size of what is freed, up to 32 MiB, and makes eight arenas a processor: what one large torrent
/// took once stays. Call it before there are threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn bound_heap() {
    use std::ffi::c_int;

    // Of `malloc.h`.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;
    const LARGE: c_int = 1 << 20;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    for (parameter, value) in [(M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE), (M_ARENA_MAX, 2)] {
        // SAFETY: mallopt takes any two numbers, and says 0 to those that it does not know.
        unsafe { mallopt(parameter, value) };
    }
}

/// Other C libraries have no such limits.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound_heap() {}
