//! The row that is kept of an exchange.

use mailspan_core::limits::ANSWER_KEPT_BYTES_MAX;
use mailspan_core::{Answer, Attempt, Lost, Millis, Request};

/// `whole`: something was not done, so request and answer are kept. Nothing in a planned request
/// proves who we are, so all of it may be shown.
pub(crate) fn attempt(
    request: &Request,
    answer: &Result<Answer, Lost>,
    sent_at: Millis,
    now: Millis,
    items: usize,
    whole: bool,
) -> Attempt {
    let (status, shown) = match answer {
        Ok(answer) => {
            let kept = &answer.body[..answer.body.len().min(ANSWER_KEPT_BYTES_MAX)];
            (answer.status, String::from_utf8_lossy(kept).into_owned())
        }
        Err(lost) => (0, lost.why.to_string()),
    };
    Attempt {
        at: sent_at,
        took_ms: u32::try_from(now.since(sent_at)).unwrap_or(u32::MAX),
        items: u32::try_from(items).unwrap_or(u32::MAX),
        status,
        request: whole.then(|| as_text(request)),
        answer: whole.then_some(shown),
    }
}

/// Method and path, a line a header, an empty line, the body.
fn as_text(request: &Request) -> Vec<u8> {
    let mut text = format!("{} {}\n", request.method, request.path);
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push('\n');
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&request.body);
    bytes
}

#[cfg(test)]
mod tests {
    use mailspan_core::Reason;

    use super::*;

    fn check(answer: Result<Answer, Lost>, whole: bool, expected: (u16, Option<&str>, Option<&str>)) {
        let request = Request {
            method: "POST",
            path: "/x".to_owned(),
            headers: vec![("accept".to_owned(), "*/*".to_owned())],
            body: "{}".into(),
        };
        let row = attempt(&request, &answer, Millis(10), Millis(25), 2, whole);
        assert_eq!((row.at, row.took_ms, row.items), (Millis(10), 15, 2));
        let request = row.request.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!((row.status, request.as_deref(), row.answer.as_deref()), expected);
    }

    #[test]
    fn an_exchange_is_kept_whole_where_something_is_left() {
        let answer =
            Answer { at: Millis(20), status: 500, headers: vec![], body: b"no".to_vec(), cut: false };
        check(Ok(answer.clone()), false, (500, None, None));
        check(Ok(answer), true, (500, Some("POST /x\naccept: */*\n\n{}"), Some("no")));
        let lost = Lost { sent: true, refused: false, why: Reason::new("timeout", "no answer within 30s") };
        check(
            Err(lost),
            true,
            (0, Some("POST /x\naccept: */*\n\n{}"), Some("timeout: no answer within 30s")),
        );
    }
}
