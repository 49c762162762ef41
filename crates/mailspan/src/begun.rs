//! Work that is brought to its end though nobody waits for it any more. The server drops a request whose sender went
//! away, and its handler with it: what is committed for it all the same must not wait for the next one to be seen.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::runtime;

/// Runs `work` here; dropped meanwhile, it goes on in a task of its own. For a write with what has to follow its
/// commit: that is soon done, so there are no more of these tasks than writes that wait.
pub fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Begun<T> {
    Begun(Some(Box::pin(work)))
}

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Work under way; nothing once it is done.
pub struct Begun<T: Send + 'static>(Option<Work<T>>);

impl<T: Send + 'static> Future for Begun<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Begun<T> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            runtime::spawn_at_last(async move {
                // Nobody is left to be told.
                let _ = work.await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[test]
    fn what_is_dropped_half_way_is_brought_to_its_end() {
        runtime::build().unwrap().block_on(async {
            let (go, (done, is_done)) = (Arc::new(Notify::new()), oneshot::channel());
            let wait = go.clone();
            let mut work = to_its_end(async move {
                wait.notified().await;
                done.send("told").unwrap();
            });
            std::future::poll_fn(|cx| {
                assert!(Pin::new(&mut work).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(work);
            go.notify_one();
            assert_eq!(is_done.await, Ok("told"), "the rest was not done: look at Drop of Begun");
        });
    }

    #[test]
    fn who_waits_gets_what_came_of_it() {
        runtime::build().unwrap().block_on(async {
            assert_eq!(to_its_end(async { 7 }).await, 7);
        });
    }
}
