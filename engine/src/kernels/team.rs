//! Threads that share the items of one job, and sleep when there is none.
//!
//! Items are claimed one by one, by the caller too, who waits for helpers that have begun alone: one that the system does
//! not let run delays nobody. What is computed does not depend on who does it. A helper looks out for the next job for
//! some microseconds, because in decoding it comes at once, and then sleeps.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// How long a helper looks out before it sleeps: the time between two jobs of one token, and not much more.
const LOOK_OUT: Duration = Duration::from_micros(40);

/// The caller, and its helpers once they are called.
#[derive(Default)]
pub struct Team(OnceLock<Crew>);

struct Crew {
    helpers: Vec<JoinHandle<()>>,
    desk: Arc<Desk>,
    /// Somebody's job is on the board; another session computes alone meanwhile.
    is_taken: AtomicBool,
}

#[derive(Default)]
struct Desk {
    board: Mutex<Board>,
    /// Counts jobs, so that helpers can look out for the next one without the lock.
    jobs: AtomicU64,
    /// Helpers that are at the job; changed by who holds the board.
    busy: AtomicUsize,
    come: Condvar,
    gone: Condvar,
}

#[derive(Default)]
struct Board {
    job: Option<Job>,
    asleep: usize,
    is_over: bool,
}

/// A job as helpers see it; it lies on the stack of the caller.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn() + Sync),
}

// SAFETY: the pointer is followed by helpers that are counted as busy alone, and the caller stays until there is none.
unsafe impl Send for Job {}

/// A panic while the board is held leaves it whole: it is changed in single steps.
fn locked(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Team {
    /// Be `count` threads from now on, fewer where the system gives no more. Once: false where it is so already.
    pub fn grow(&self, count: usize) -> bool {
        let mut is_first = false;
        self.0.get_or_init(|| {
            is_first = true;
            Crew::of(count)
        });
        is_first
    }

    /// Threads that can work on a job.
    pub fn size(&self) -> usize {
        self.0.get().map_or(1, |crew| crew.helpers.len() + 1)
    }

    /// Do some work on every item, each by one thread alone; all of it is done on return.
    pub fn each<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let crew = self.0.get().filter(|crew| items.len() > 1 && !crew.helpers.is_empty());
        let Some(crew) = crew.filter(|crew| !crew.is_taken.swap(true, Ordering::Acquire)) else {
            return items.iter_mut().for_each(work);
        };
        let (first, count, next) = (Shared(items.as_mut_ptr()), items.len(), AtomicUsize::new(0));
        let claim = || loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            // SAFETY: the index is within the items, and no other claim gets the same.
            work(unsafe { &mut *first.at(index) });
        };
        crew.share(&claim);
    }
}

impl Crew {
    fn of(count: usize) -> Self {
        let desk = Arc::new(Desk::default());
        let helper = |_| {
            let desk = desk.clone();
            std::thread::Builder::new().name("smallhold".into()).spawn(move || help(&desk)).ok()
        };
        let helpers = (1..count).map_while(helper).collect();
        Self { helpers, desk, is_taken: AtomicBool::new(false) }
    }

    /// Run a closure here and on every helper that comes in time, until all that began have ended.
    fn share(&self, work: &(dyn Fn() + Sync)) {
        // SAFETY: the lifetime alone is changed. `Shift` waits, even in a panic, until no helper follows the pointer.
        let work_for_helpers: &'static (dyn Fn() + Sync) = unsafe { core::mem::transmute(work) };
        let _shift = Shift(self);
        let mut board = locked(&self.desk.board);
        board.job = Some(Job { work: work_for_helpers });
        self.desk.jobs.fetch_add(1, Ordering::Release);
        let is_any_asleep = board.asleep > 0;
        drop(board);
        if is_any_asleep {
            self.desk.come.notify_all();
        }
        work();
    }
}

/// A job on the board. Its end takes it down, and waits for helpers that have begun.
struct Shift<'a>(&'a Crew);

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        let desk = &self.0.desk;
        locked(&desk.board).job = None; // from here on nobody begins
        look_out(|| desk.busy.load(Ordering::Acquire) == 0);
        let mut board = locked(&desk.board);
        while desk.busy.load(Ordering::Acquire) > 0 {
            board = desk.gone.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        drop(board);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

/// Wait for something for a moment; it may not have come.
fn look_out(has_come: impl Fn() -> bool) {
    let begun = Instant::now();
    while !has_come() && begun.elapsed() < LOOK_OUT {
        core::hint::spin_loop();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        locked(&self.desk.board).is_over = true;
        self.desk.jobs.fetch_add(1, Ordering::Release);
        self.desk.come.notify_all();
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

/// A helper's life.
fn help(desk: &Desk) {
    let mut seen = 0;
    loop {
        look_out(|| desk.jobs.load(Ordering::Acquire) != seen);
        let mut board = locked(&desk.board);
        while desk.jobs.load(Ordering::Acquire) == seen && !board.is_over {
            board.asleep += 1;
            board = desk.come.wait(board).unwrap_or_else(PoisonError::into_inner);
            board.asleep -= 1;
        }
        if board.is_over {
            return;
        }
        seen = desk.jobs.load(Ordering::Acquire);
        let Some(job) = board.job else { continue };
        desk.busy.fetch_add(1, Ordering::Relaxed);
        drop(board);
        let _done = Done(desk);
        // SAFETY: counted as busy while the job was on the board: its caller waits.
        unsafe { (*job.work)() };
    }
}

/// A helper's part in a job; its end is told to the caller.
struct Done<'a>(&'a Desk);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let _board = locked(&self.0.board);
        if self.0.busy.fetch_sub(1, Ordering::Release) == 1 {
            self.0.gone.notify_all();
        }
    }
}

/// The first of many items, of which each thread takes others.
struct Shared<T>(*mut T);

// SAFETY: every item is handed to one thread alone, and items may be sent to threads.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// There are more than `index` items.
    unsafe fn at(&self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn team_of(count: usize) -> Team {
        let team = Team::default();
        assert!(team.grow(count) && !team.grow(count + 1));
        assert_eq!(team.size(), count);
        team
    }

    #[test]
    fn every_item_is_worked_on_once_whatever_the_team() {
        for count in [1, 2, 3, 8] {
            let team = team_of(count);
            for turn in 0..2000_u64 {
                let mut items: Vec<u64> = (0..turn % 17).collect();
                team.each(&mut items, |item| *item = *item * 2 + turn);
                assert_eq!(items, (0..turn % 17).map(|i| i * 2 + turn).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn sessions_of_several_threads_share_one_team() {
        let team = team_of(2);
        std::thread::scope(|scope| {
            for seed in 0..4_u64 {
                let team = &team;
                scope.spawn(move || {
                    for turn in 0..500 {
                        let mut items = vec![seed; 9];
                        team.each(&mut items, |item| *item += turn);
                        assert_eq!(items, vec![seed + turn; 9]);
                    }
                });
            }
        });
    }

    #[test]
    fn a_helper_that_slept_is_woken() {
        let team = team_of(2);
        let mut threads = vec![None; 2];
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(1));
            team.each(&mut threads, |slot| {
                std::thread::sleep(Duration::from_millis(2));
                *slot = Some(std::thread::current().id());
            });
            if threads[0] != threads[1] {
                return;
            }
        }
        panic!("no helper ever came");
    }
}
