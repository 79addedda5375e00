//! Stands in for `bcryptprimitives.dll`, from which Rust's standard library takes its random numbers and which wine 8
//! lacks. Its one function passes on to one that wine has.
//!
//! It cannot use the standard library, which would load this one. Without it a program has to abort where it panics, so
//! only a profile that says so (`agent`) builds anything here.

#![cfg_attr(all(windows, panic = "abort"), no_std)]

#[cfg(all(windows, panic = "abort"))]
mod process_prng {
    #![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

    use core::panic::PanicInfo;

    use windows_sys::Win32::Security::Authentication::Identity::RtlGenRandom;
    use windows_sys::Win32::System::Threading::ExitProcess;

    /// Fills `length` bytes at `data` with random ones. As the original it has no way to fail: whoever calls it relies on
    /// the bytes, so without them the program ends.
    #[unsafe(no_mangle)]
    unsafe extern "system" fn ProcessPrng(data: *mut u8, length: usize) -> i32 {
        let mut filled = 0;
        while filled < length {
            let part = (length - filled).min(LARGEST);
            // SAFETY: the caller gives `length` bytes that may be written, and these are among them.
            let drawn = unsafe { RtlGenRandom(data.add(filled).cast(), part as u32) };
            assert!(drawn, "the system has no random numbers");
            filled += part;
        }
        1
    }

    #[panic_handler]
    fn panic(_info: &PanicInfo<'_>) -> ! {
        // SAFETY: it does not return, so nothing of this program is used any more.
        unsafe { ExitProcess(NO_RANDOM_NUMBERS) }
    }

    /// What is asked for at once.
    const LARGEST: usize = 1 << 20;
    /// The exit code of a program that could not go on.
    const NO_RANDOM_NUMBERS: u32 = 134;
}
