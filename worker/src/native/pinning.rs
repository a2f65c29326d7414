//! Threads that stay on a processor each.
//!
//! A step's threads wait for each other at every product, so one that the system puts beside another holds
//! all of them up. Whoever uses fewer threads than there are processors shares the machine with others, and
//! the system knows better where those are.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of so many threads, 0 for as many as the process may use at once. They stay on a processor each if
/// those are all that the process may use.
pub(super) fn pool(threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    let pool = ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.thread_name(|index| format!("native-{index}")).build()?;
    #[cfg(target_os = "linux")]
    linux::pin(&pool);
    Ok(pool)
}

#[cfg(target_os = "linux")]
mod linux {
    use rayon::ThreadPool;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// Pins a pool's threads, where each can have a processor and none is left over.
    pub(super) fn pin(pool: &ThreadPool) {
        let processors = allowed();
        if processors.len() != pool.current_num_threads() {
            return;
        }
        pool.broadcast(|thread| {
            let mut own = CpuSet::new();
            own.set(processors[thread.index()]);
            // Where that is forbidden the system goes on placing them, which costs a little time.
            sched_setaffinity(None, &own).unwrap_or_default();
        });
    }

    /// The processors that this thread may run on; none if the system doesn't say.
    pub(super) fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{linux::allowed, *};

    #[test]
    fn threads_that_have_all_processors_stay_apart() {
        let all = allowed();
        let pool = pool(all.len()).unwrap();
        let mut own: Vec<_> = pool.broadcast(|_| allowed());
        own.sort();
        assert_eq!(own, all.iter().map(|processor| vec![*processor]).collect::<Vec<_>>());
        assert_eq!(allowed(), all, "who starts them stays where it may be");
    }

    #[test]
    fn threads_that_share_the_processors_go_where_there_is_room() {
        let all = allowed();
        for threads in [all.len() + 1, 2 * all.len()] {
            let own = pool(threads).unwrap().broadcast(|_| allowed());
            assert!(own.iter().all(|own| *own == all));
        }
        if 1 < all.len() {
            assert_eq!(pool(1).unwrap().broadcast(|_| allowed()), [all]);
        }
    }
}
