//! The allocator of the process, counted for each thread: what a program of the user takes is known nowhere else.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one hands every call on as it came"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mailspan_maps::Memory;
use mimalloc::MiMalloc;

/// mimalloc, counted.
pub struct Counted;

// Without a destructor and without a first value to compute, so that they can be used in the allocator.
thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
    static GIVEN_BACK: Cell<u64> = const { Cell::new(0) };
}

/// Of the calling thread.
pub fn of_thread() -> Memory {
    Memory { taken: TAKEN.get(), given_back: GIVEN_BACK.get() }
}

fn took(bytes: usize) {
    TAKEN.set(TAKEN.get().wrapping_add(bytes as u64));
}

fn gave_back(bytes: usize) {
    GIVEN_BACK.set(GIVEN_BACK.get().wrapping_add(bytes as u64));
}

// SAFETY: every call goes to mimalloc with the arguments it came with; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave_back(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { MiMalloc.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        gave_back(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { MiMalloc.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::{Millis, RawRequest};
    use mailspan_maps::{Program, Purpose};

    use super::*;
    use crate::config::programs::METER;

    #[test]
    fn what_a_thread_takes_and_gives_back_is_counted() {
        let before = of_thread();
        let mut bytes: Vec<u8> = Vec::with_capacity(1_000);
        bytes.reserve_exact(5_000);
        let held = of_thread();
        assert!(held.taken - before.taken >= 6_000, "{before:?} {held:?}");
        assert!(held.taken - held.given_back >= before.taken - before.given_back + 5_000, "{held:?}");
        drop(bytes);
        assert!(of_thread().given_back - before.given_back >= 6_000);
        let elsewhere = std::thread::scope(|scope| scope.spawn(of_thread).join().unwrap());
        assert!(elsewhere.taken < of_thread().taken, "each thread counts its own");
    }

    /// Runs a `parse` program over so many elements, measured as those of a configuration are.
    fn check(program: &str, elements: usize, expected: Result<usize, &str>) {
        let events: Vec<_> = (0..elements).map(|n| serde_json::json!({ "kind": "made", "n": n })).collect();
        let request = RawRequest {
            method: "POST".to_owned(),
            url: String::new(),
            path: String::new(),
            query: String::new(),
            headers: Vec::new(),
            body: serde_json::json!({ "events": events }).to_string().into(),
            received_at: Millis(0),
        };
        let program = Program::compile(program, Purpose::Parse).unwrap().with_meter(METER);
        match (program.parse(&request), expected) {
            (Ok(made), Ok(count)) => assert_eq!(made.len(), count),
            (Err(reason), Err(words)) => assert!(reason.text.contains(words), "{reason}"),
            (made, expected) => panic!("{expected:?}: {:?}", made.map(|made| made.len())),
        }
    }

    #[test]
    fn a_program_is_ended_at_what_it_takes() {
        let made = |how: &str| format!("for_each(array!(.body.events)) -> |_i, item| {{ {how} }}\nevents");
        let grows = made("events = push(events, { \"type\": \"a.b\", \"data\": item })");
        check(&format!("events = []\n{grows}"), 100, Ok(100));
        check(&format!("events = []\n{grows}"), 5_000, Err("write `map_values(items)"));
        let doubles = made("events = events + events");
        check(&format!("events = \"0123456789abcdef\"\n{doubles}"), 33, Err("held more than 128 MiB"));
        let mapped = "map_values(array!(.body.events)) -> |item| { { \"type\": \"a.\" + string!(item.kind), \"data\": item } }";
        check(mapped, 5_000, Ok(5_000));
    }
}
