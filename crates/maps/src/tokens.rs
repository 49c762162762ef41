//! A reader of VRL's tokens, as far as the guard needs them: it agrees with VRL's own lexer on where
//! strings, comments and words begin and end.

/// A token with its place in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token<'a> {
    pub at: usize,
    pub end: usize,
    pub kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind<'a> {
    /// A name, a key of a path, a keyword.
    Word(&'a str),
    Number(&'a str),
    /// A string in double quotes, with the number of `{{` in it: each becomes a concatenation.
    Text {
        templates: usize,
    },
    /// `s'…'`, `r'…'`, `t'…'`.
    Quoted,
    Open(u8),
    Close,
    /// A run of operator characters, `->` included.
    Operator(&'a str),
    Dot,
    Comma,
    Colon,
    Semicolon,
    Newline,
    Comment,
    Other,
}

/// The tokens of a program; white space other than line ends is left out. Any text is taken: what
/// VRL would refuse becomes [`Kind::Other`] or runs to the end.
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a str) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, fits: fn(u8) -> bool) {
        while self.byte(0).is_some_and(fits) {
            self.at += 1;
        }
    }

    /// Past the closing quote; a backslash takes the next byte along.
    fn skip_quoted(&mut self, quote: u8) {
        while let Some(byte) = self.byte(0) {
            self.at += 1;
            match byte {
                b'\\' => self.at += usize::from(self.byte(0).is_some()),
                _ if byte == quote => return,
                _ => {}
            }
        }
    }

    fn kind(&mut self, first: u8) -> Kind<'a> {
        let from = self.at;
        self.at += 1;
        match first {
            b'"' => {
                self.skip_quoted(b'"');
                let inside = &self.text.as_bytes()[from..self.at];
                Kind::Text { templates: inside.windows(2).filter(|pair| pair == b"{{").count() }
            }
            b's' | b'r' | b't' if self.byte(0) == Some(b'\'') => {
                self.at += 1;
                self.skip_quoted(b'\'');
                Kind::Quoted
            }
            b'#' => {
                self.skip_while(|byte| byte != b'\n');
                Kind::Comment
            }
            b'(' | b'[' | b'{' => Kind::Open(first),
            b')' | b']' | b'}' => Kind::Close,
            b'.' => Kind::Dot,
            b',' => Kind::Comma,
            b':' => Kind::Colon,
            b';' => Kind::Semicolon,
            b'\n' => Kind::Newline,
            _ if is_word_start(first) => {
                self.skip_while(is_word);
                Kind::Word(&self.text[from..self.at])
            }
            _ if first.is_ascii_digit() || first == b'-' && self.digit_follows() => self.number(from),
            _ if is_operator(first) => {
                self.skip_while(is_operator);
                Kind::Operator(&self.text[from..self.at])
            }
            _ => Kind::Other,
        }
    }

    fn digit_follows(&self) -> bool {
        self.byte(0).is_some_and(|byte| byte.is_ascii_digit())
    }

    /// Digits that letters follow are a word (`.0abc`), as for VRL.
    fn number(&mut self, from: usize) -> Kind<'a> {
        self.skip_while(|byte| byte.is_ascii_digit() || byte == b'_');
        if self.byte(0).is_some_and(is_word) && self.text.as_bytes()[from] != b'-' {
            self.skip_while(is_word);
            return Kind::Word(&self.text[from..self.at]);
        }
        Kind::Number(&self.text[from..self.at])
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        // Bytes over 127 are never white space here: VRL skips Unicode white space, which is no token
        // either, and inside strings it does not matter.
        self.skip_while(|byte| byte.is_ascii_whitespace() && byte != b'\n');
        let at = self.at;
        let kind = self.kind(self.byte(0)?);
        Some(Token { at, end: self.at, kind })
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'@')
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit()
}

fn is_operator(byte: u8) -> bool {
    matches!(byte, b'!' | b'&' | b'*' | b'+' | b'-' | b'/' | b'<' | b'=' | b'>' | b'?' | b'|')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Tokens::new(text).map(|token| text[token.at..token.end].to_owned()).collect()
    }

    #[test]
    fn strings_comments_and_words_end_where_vrl_ends_them() {
        assert_eq!(words(r#"f!(.a["x]\""], s'(\'[', r'[', 1_0)"#).len(), 15);
        assert_eq!(words("a # ([{ \"\n b"), ["a", "# ([{ \"", "\n", "b"]);
        assert_eq!(words(".0ab -5 x-5"), [".", "0ab", "-5", "x", "-5"]);
        assert_eq!(words("\"open"), ["\"open"]);
    }

    #[test]
    fn templates_are_counted() {
        let kind = Tokens::new(r#""{{a}} and {{ b }}""#).next().unwrap().kind;
        assert_eq!(kind, Kind::Text { templates: 2 });
    }
}
