//! What the process that opens keys gives up before it does: memory that can be swapped or dumped, and every system call
//! that it does not need. A flaw in it then cannot reach the network, start a program or read another process.

use std::collections::BTreeMap;

use nix::{
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    },
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

/// A restriction could not be put in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// The kernel refused to make the process non-dumpable.
    #[error("cannot forbid dumps of this process: {0}")]
    Dumps(nix::Error),
    /// The kernel refused to keep new privileges from the process.
    #[error("cannot forbid new privileges: {0}")]
    Privileges(nix::Error),
    /// The process may not lock as much memory as it will need.
    #[error("cannot lock memory: {0}; raise the limit (LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK")]
    Memory(nix::Error),
    /// The filter does not fit this machine, or the kernel refused it.
    #[error("cannot filter system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// No filter exists for this machine's instruction set.
    #[error("no system call filter for this architecture")]
    Architecture,
}

/// No core file, and no reading of this process's memory by others of the same user.
///
/// # Errors
/// [`ConfineError::Dumps`].
pub fn forbid_dumps() -> Result<(), ConfineError> {
    prctl::set_dumpable(false).map_err(ConfineError::Dumps)?;
    forbid_core_files()
}

/// No core file: a process that crashes leaves nothing of its memory.
///
/// # Errors
/// [`ConfineError::Dumps`].
pub fn forbid_core_files() -> Result<(), ConfineError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(ConfineError::Dumps)
}

/// No program that this process starts gets more rights than it has.
///
/// # Errors
/// [`ConfineError::Privileges`].
pub fn forbid_privileges() -> Result<(), ConfineError> {
    prctl::set_no_new_privs().map_err(ConfineError::Privileges)
}

/// Keeps all memory of this process, present and future, out of swap.
///
/// # Errors
/// [`ConfineError::Memory`].
pub fn lock_memory() -> Result<(), ConfineError> {
    let (_, limit) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(ConfineError::Memory)?;
    // A finite limit would be met later, in the middle of the work, by an allocation that fails.
    if limit != RLIM_INFINITY && !has_ipc_lock() {
        return Err(ConfineError::Memory(nix::Error::ENOMEM));
    }
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(ConfineError::Memory)
}

/// Whether this process may lock memory beyond its limit (CAP_IPC_LOCK, bit 14 of the effective set).
fn has_ipc_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 14) != 0)
}

/// Calls whose mere attempt shows that the process was taken over: it is ended at once.
const FATAL: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_mount,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What a database, an allocator, a clock and a random source need. Sends and receives work on connections that were
/// open before.
const NEEDED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older forms that the C library still uses on this architecture.
#[cfg(target_arch = "x86_64")]
const NEEDED_HERE: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_stat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const NEEDED_HERE: &[libc::c_long] = &[];

/// Filters the system calls of every thread of this process, for good. Files already open and new ones may be read and
/// written, memory taken, time told, randomness drawn; connections, programs, threads and other processes are out of
/// reach. A call of the fatal kind ends the process, any other fails with `EPERM`.
///
/// # Errors
/// [`ConfineError::Filter`], [`ConfineError::Architecture`].
pub fn filter_system_calls() -> Result<(), ConfineError> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => TargetArch::x86_64,
        "aarch64" => TargetArch::aarch64,
        _ => return Err(ConfineError::Architecture),
    };
    // The fatal calls first: the other filter would forbid to install a second one.
    apply(FATAL.iter(), SeccompAction::Allow, SeccompAction::KillProcess, arch)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply(NEEDED.iter().chain(NEEDED_HERE), refused, SeccompAction::Allow, arch)
}

fn apply<'c>(
    calls: impl Iterator<Item = &'c libc::c_long>,
    otherwise: SeccompAction,
    named: SeccompAction,
    arch: TargetArch,
) -> Result<(), ConfineError> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> = calls.map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, otherwise, named, arch).map_err(seccompiler::Error::Backend)?;
    let program: BpfProgram = filter.try_into().map_err(seccompiler::Error::Backend)?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::unix::process::ExitStatusExt,
        process::{Command, ExitStatus, Output},
    };

    use super::*;

    /// Runs one of the ignored tests below in a process of its own: a filter cannot be taken off again.
    fn child(test: &str) -> Output {
        let name = format!("confine::tests::{test}");
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(["--exact", &name, "--ignored", "--nocapture"]).output().unwrap()
    }

    fn killed_for_a_call(status: ExitStatus) -> bool {
        status.signal() == Some(libc::SIGSYS)
    }

    #[test]
    fn a_confined_process_that_opens_a_connection_is_ended() {
        assert!(killed_for_a_call(child("child_connects").status));
    }

    #[test]
    #[ignore = "ends the process that runs it"]
    fn child_connects() {
        filter_system_calls().unwrap();
        let _ = TcpListener::bind("127.0.0.1:0");
    }

    #[test]
    fn a_confined_process_that_starts_a_program_is_ended_or_refused() {
        let output = child("child_executes");
        let refused = String::from_utf8_lossy(&output.stdout).contains("refused");
        assert!(killed_for_a_call(output.status) || refused, "{output:?}");
    }

    #[test]
    #[ignore = "ends the process that runs it"]
    fn child_executes() {
        filter_system_calls().unwrap();
        // Making the new process already fails.
        assert!(Command::new("/bin/true").status().is_err());
        std::io::stdout().write_all(b"refused").unwrap();
    }

    #[test]
    fn a_confined_process_still_works_on_files_and_draws_randomness() {
        let output = child("child_works");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    #[ignore = "for a process of its own"]
    fn child_works() {
        let path = std::env::temp_dir().join(format!("gridseal-confine-{}", std::process::id()));
        forbid_dumps().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        filter_system_calls().unwrap();
        std::fs::write(&path, b"x").unwrap();
        let mut back = String::new();
        std::fs::File::open(&path).unwrap().read_to_string(&mut back).unwrap();
        std::fs::remove_file(&path).unwrap();
        let random = gridseal_crypto::random::<16>(&mut crate::rng::OsRng).unwrap();
        assert!(back == "x" && random != [0; 16]);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }

    #[test]
    fn locked_memory_is_locked_or_the_limit_is_named() {
        let output = child("child_locks");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    #[ignore = "for a process of its own"]
    fn child_locks() {
        match lock_memory() {
            Ok(()) => {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let locked = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
                assert!(!locked.contains("\t       0 kB"), "{locked}");
            }
            Err(error) => assert!(error.to_string().contains("LimitMEMLOCK"), "{error}"),
        }
    }
}
