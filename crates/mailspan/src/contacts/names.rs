//! What stays when a person is erased must not name one: a URL, the name of a field.

use mailspan_core::Name;
use mailspan_core::contact::ContactKey;
use mailspan_store::Trouble;

use crate::app::App;

/// Words that are looked up: more than an address of a webhook, or a name, has.
const WORDS_MAX: usize = 32;
/// Shorter words may be anybody's, and plain ones that are shorter than twice this: an erasure leaves them in what is
/// not the person's own.
const OWN_WORD_CHARS_MIN: usize = 6;

/// True where one of the words is the external id of a contact of the tenant.
pub async fn a_contact<'a>(
    app: &App,
    tenant: &Name,
    words: impl Iterator<Item = &'a str>,
) -> Result<bool, Trouble> {
    for word in words.filter(|word| is_own(word)).take(WORDS_MAX) {
        if app.store.contact(tenant, &ContactKey::ExternalId(word.to_owned())).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_own(word: &str) -> bool {
    let chars = word.chars().count();
    let is_plain = word.chars().all(char::is_alphabetic);
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    chars >= OWN_WORD_CHARS_MIN && !is_number && (!is_plain || chars >= 2 * OWN_WORD_CHARS_MIN)
}
