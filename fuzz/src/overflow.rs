//! A stack that overflows as a crash like any other: the fuzzer keeps the input that did it.
//!
//! libFuzzer handles signals on the stack that they come on, unless a handler before it asked for another, and on a
//! stack that is full the process ends without a word.

use std::{mem, ptr};

/// The size of the stack for signals, in bytes.
const SIGNAL_STACK_BYTES: usize = 1 << 18;

/// Gives signals of this thread a stack of their own. Called before the fuzzer sets its handlers.
///
/// # Panics
/// Where the system refuses.
pub fn keep_the_input() {
    let stack = Box::leak(vec![0_u8; SIGNAL_STACK_BYTES].into_boxed_slice());
    let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the stack lives as long as the process, and the action is the default one.
    unsafe {
        assert_eq!(libc::sigaltstack(&raw const alternate, ptr::null_mut()), 0, "no stack for signals");
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            assert_eq!(libc::sigaction(signal, &raw const action, ptr::null_mut()), 0, "no action for signals");
        }
    }
}
