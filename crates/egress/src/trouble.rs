//! Why no answer came, as [`Lost`] with a stable code.

use std::error::Error;

use mailspan_core::{Lost, Reason};

/// Never worth another try by itself.
pub(crate) fn refused(code: &str, text: impl Into<String>) -> Lost {
    Lost { sent: false, refused: true, why: Reason::new(code, text) }
}

/// Not a byte of the request was written.
pub(crate) fn unsent(code: &str, text: impl Into<String>) -> Lost {
    lost(false, code, text)
}

pub(crate) fn lost(sent: bool, code: &str, text: impl Into<String>) -> Lost {
    Lost { sent, refused: false, why: Reason::new(code, text) }
}

/// What the HTTP client says: `bad_answer`, `tls`, `closed`.
pub(crate) fn of_exchange(sent: bool, place: &str, error: &hyper::Error) -> Lost {
    let causes = causes(error);
    if let Some(tls) = find::<rustls::Error>(error) {
        return lost(sent, "tls", format!("{place}: {}", tls_text(tls)));
    }
    if error.is_parse_too_large() {
        let most = mailspan_core::limits::ANSWER_HEAD_BYTES_MAX >> 10;
        return lost(
            sent,
            "bad_answer",
            format!("{place}: the head of the answer is over {most} KiB or 100 headers"),
        );
    }
    if error.is_parse() {
        return lost(sent, "bad_answer", format!("{place}: the answer is not HTTP/1.1 ({causes})"));
    }
    if sent {
        lost(
            sent,
            "closed",
            format!("{place}: the connection was closed before the answer was complete ({causes})"),
        )
    } else {
        lost(sent, "closed", format!("{place}: the connection was closed before anything was sent"))
    }
}

/// `tls` where the handshake failed for a reason of its own, else `connect`.
pub(crate) fn of_handshake(place: &str, error: &std::io::Error) -> Lost {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => unsent("tls", format!("{place}: {}", tls_text(tls))),
        None => unsent(
            "tls",
            format!(
                "{place}: the connection was closed during the TLS handshake ({error}); is this a TLS port?"
            ),
        ),
    }
}

fn tls_text(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    if let rustls::Error::InvalidCertificate(Bad::Other(why)) = error {
        return format!("TLS: invalid peer certificate: {}", why.0);
    }
    let mend = match error {
        // A certificate that cannot even be read; else `chain` has more to say.
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "; the receiver must send its whole chain, or a private authority signed it: name that one's PEM file in `ca`"
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "; the receiver must renew it, or this machine's clock is wrong"
        }
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "; it is not valid yet, or this machine's clock is wrong"
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "; use the name that the certificate carries"
        }
        rustls::Error::AlertReceived(_) => {
            "; a receiver that wants a client certificate answers so: see `client_certificate`"
        }
        rustls::Error::InvalidMessage(_) => "; this does not look like a TLS port",
        _ => "",
    };
    format!("TLS: {error}{mend}")
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    for _ in 0..8 {
        let here = cause?;
        if let Some(found) = here.downcast_ref::<E>() {
            return Some(found);
        }
        // An `io::Error` shows its inner error's source, not the inner error itself.
        let inner = here.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| here.source());
    }
    None
}

fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    for _ in 0..4 {
        let Some(here) = cause else { break };
        text.push_str(": ");
        text.push_str(&here.to_string());
        cause = here.source();
    }
    text
}
