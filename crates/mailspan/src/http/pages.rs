//! Pages for visitors: plain, without scripts, in the contact's language.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// The texts of one language.
pub struct Words {
    pub lang: &'static str,
    pub title: &'static str,
    /// Before the address.
    pub ask: &'static str,
    pub button: &'static str,
    pub done: &'static str,
    /// Confirmed, and not to be mailed all the same.
    pub blocked: &'static str,
    pub expired: &'static str,
    pub unknown: &'static str,
    pub later: &'static str,
}

/// The first is for whoever has another language, or none.
const WORDS: [Words; 6] = [
    Words {
        lang: "en",
        title: "Confirm your subscription",
        ask: "Press the button to confirm this address:",
        button: "Confirm",
        done: "Thank you: your subscription is confirmed.",
        blocked: "Thank you: your consent is kept. This address is not mailed at present: please write to us.",
        expired: "This link has expired. Please subscribe again.",
        unknown: "This link is not valid.",
        later: "This does not work just now. Please try again in a minute.",
    },
    Words {
        lang: "es",
        title: "Confirma tu suscripción",
        ask: "Pulsa el botón para confirmar esta dirección:",
        button: "Confirmar",
        done: "Gracias: tu suscripción está confirmada.",
        blocked: "Gracias: tu consentimiento queda guardado. Ahora no se envía correo a esta dirección: escríbenos.",
        expired: "Este enlace ha caducado. Suscríbete de nuevo.",
        unknown: "Este enlace no es válido.",
        later: "Ahora mismo no funciona. Inténtalo de nuevo en un minuto.",
    },
    Words {
        lang: "it",
        title: "Conferma la tua iscrizione",
        ask: "Premi il pulsante per confermare questo indirizzo:",
        button: "Conferma",
        done: "Grazie: la tua iscrizione è confermata.",
        blocked: "Grazie: il tuo consenso è registrato. Al momento non inviamo messaggi a questo indirizzo: scrivici.",
        expired: "Questo link è scaduto. Iscriviti di nuovo.",
        unknown: "Questo link non è valido.",
        later: "Al momento non funziona. Riprova tra un minuto.",
    },
    Words {
        lang: "fr",
        title: "Confirmez votre inscription",
        ask: "Appuyez sur le bouton pour confirmer cette adresse :",
        button: "Confirmer",
        done: "Merci : votre inscription est confirmée.",
        blocked: "Merci : votre accord est enregistré. Cette adresse ne reçoit pas de courrier pour le moment : écrivez-nous.",
        expired: "Ce lien a expiré. Veuillez vous inscrire à nouveau.",
        unknown: "Ce lien n’est pas valide.",
        later: "Cela ne fonctionne pas pour le moment. Réessayez dans une minute.",
    },
    Words {
        lang: "ca",
        title: "Confirma la teva subscripció",
        ask: "Prem el botó per confirmar aquesta adreça:",
        button: "Confirma",
        done: "Gràcies: la teva subscripció està confirmada.",
        blocked: "Gràcies: el teu consentiment queda desat. Ara mateix no s’envia correu a aquesta adreça: escriu-nos.",
        expired: "Aquest enllaç ha caducat. Torna a subscriure’t.",
        unknown: "Aquest enllaç no és vàlid.",
        later: "Ara mateix no funciona. Torna-ho a provar d’aquí a un minut.",
    },
    Words {
        lang: "de",
        title: "Anmeldung bestätigen",
        ask: "Mit dem Knopf bestätigen Sie diese Adresse:",
        button: "Bestätigen",
        done: "Danke: Ihre Anmeldung ist bestätigt.",
        blocked: "Danke: Ihre Zustimmung ist gespeichert. An diese Adresse wird zurzeit nichts gesendet: Bitte schreiben Sie uns.",
        expired: "Dieser Link ist abgelaufen. Bitte melden Sie sich noch einmal an.",
        unknown: "Dieser Link gilt nicht.",
        later: "Das geht gerade nicht. Bitte versuchen Sie es in einer Minute noch einmal.",
    },
];

/// By the language of a locale: `de_AT` is German.
pub fn words(locale: Option<&str>) -> &'static Words {
    let language = locale.unwrap_or_default().get(..2).unwrap_or_default();
    WORDS.iter().find(|words| words.lang == language).unwrap_or(&WORDS[0])
}

/// Asks for the press of a button.
pub fn form(words: &Words, address: &str) -> Response {
    let body = format!(
        "<p>{}</p><p><strong>{}</strong></p><form method=\"post\"><button type=\"submit\">{}</button></form>",
        escaped(words.ask),
        escaped(address),
        escaped(words.button)
    );
    page(words, &body, StatusCode::OK)
}

/// Says one sentence.
pub fn say(words: &Words, text: impl Fn(&Words) -> &'static str, status: StatusCode) -> Response {
    page(words, &format!("<p>{}</p>", escaped(text(words))), status)
}

fn page(words: &Words, body: &str, status: StatusCode) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>",
        words.lang,
        title = escaped(words.title),
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_LANGUAGE, words.lang),
    ];
    (status, headers, Html(html)).into_response()
}

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; \
base-uri 'none'; frame-ancestors 'none'";
const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;margin:0;padding:2rem 1rem;color:#1a1a1a;background:#fff}\
main{max-width:32rem;margin:0 auto}h1{font-size:1.4rem}\
button{font:inherit;padding:.6rem 1.4rem;border:0;border-radius:.3rem;background:#0b5cad;color:#fff;cursor:pointer}\
button:focus-visible{outline:3px solid #f5a623;outline-offset:2px}\
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}}";

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if mailspan_core::is_unshown(c) => {}
            c => out.push(c),
        }
    }
    out
}
