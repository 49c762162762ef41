//! One exchange with a source that is asked.

use mailspan_core::{Answer, Lost, Reason, Request};

use crate::app::App;
use crate::deliver::sign;
use crate::hub::{Asked, Source};

/// Through the egress client, under the source's credential; a stop ends the wait. The credential is cut out of
/// an answer that refuses.
pub async fn ask(app: &App, source: &Source, asked: &Asked, mut request: Request) -> Result<Answer, Lost> {
    sign::authorize(&asked.auth, &mut request);
    let egress = app.live().egress.clone();
    let mut stop = app.stop.clone();
    let answer = async {
        // In a command that runs without a hub nobody tells to stop.
        tokio::select! {
            answer = egress.send(&asked.target, request) => answer,
            Ok(_) = stop.changed() => Err(Lost {
                sent: true,
                refused: false,
                why: Reason::new("stopping", "the program stops: it is asked again after the next start"),
            }),
        }
    };
    let mut answer = answer.await;
    if let Ok(answer) = &mut answer
        && answer.status >= 300
    {
        sign::redact_auth(&asked.auth, answer);
    }
    app.metrics.asked(&source.name, answer.as_ref().map_or(0, |answer| answer.status));
    answer
}
