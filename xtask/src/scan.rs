//! A light reader of Rust source: tells code from comments and literals, and finds tests and functions.
//!
//! It is not a parser. It knows just enough to count lines and to look for words without being fooled by strings.

/// A source text split into two texts of the same shape: what is not part of one is a space there.
#[derive(Debug)]
pub(crate) struct Masked {
    /// Code alone; comments and the contents of literals are blank.
    pub(crate) code: String,
    /// Comments alone, with their markers.
    pub(crate) comments: String,
}

/// Splits source text into code and comments.
pub(crate) fn mask(source: &str) -> Masked {
    let mut scanner = Scanner {
        rest: source.chars().collect(),
        at: 0,
        code: String::with_capacity(source.len()),
        comments: String::new(),
    };
    while let Some(c) = scanner.peek(0) {
        match (c, scanner.peek(1)) {
            ('/', Some('/')) => scanner.take_until(Lane::Comment, |s| s.peek(0) == Some('\n')),
            ('/', Some('*')) => scanner.block_comment(),
            ('"', _) => scanner.string(),
            ('\'', _) => scanner.char_or_lifetime(),
            _ if is_word(c) => scanner.word(),
            _ => scanner.take(Lane::Code),
        }
    }
    Masked { code: scanner.code, comments: scanner.comments }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Code,
    Comment,
    Literal,
}

struct Scanner {
    rest: Vec<char>,
    at: usize,
    code: String,
    comments: String,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn take(&mut self, lane: Lane) {
        let Some(c) = self.peek(0) else { return };
        let blank = if c == '\n' { '\n' } else { ' ' };
        self.code.push(if lane == Lane::Code { c } else { blank });
        self.comments.push(if lane == Lane::Comment { c } else { blank });
        self.at += 1;
    }

    fn take_count(&mut self, lane: Lane, count: usize) {
        for _ in 0..count {
            self.take(lane);
        }
    }

    fn take_until(&mut self, lane: Lane, end: impl Fn(&Self) -> bool) {
        while self.at < self.rest.len() && !end(self) {
            self.take(lane);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth = depth.saturating_sub(1),
                (Some(_), _) => {
                    self.take(Lane::Comment);
                    continue;
                }
                (None, _) => return,
            }
            self.take_count(Lane::Comment, 2);
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.take(Lane::Literal);
        self.escaped_until('"');
    }

    fn escaped_until(&mut self, quote: char) {
        while let Some(c) = self.peek(0) {
            if c == '\\' {
                self.take(Lane::Literal);
            }
            self.take(Lane::Literal);
            if c == quote {
                return;
            }
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.take_count(Lane::Literal, hashes + 1);
        self.take_until(Lane::Literal, |s| {
            s.peek(0) == Some('"') && (1..=hashes).all(|ahead| s.peek(ahead) == Some('#'))
        });
        self.take_count(Lane::Literal, hashes + 1);
    }

    fn char_or_lifetime(&mut self) {
        if self.peek(1) == Some('\\') || self.peek(2) == Some('\'') {
            self.take(Lane::Literal);
            self.escaped_until('\'');
        } else {
            self.take(Lane::Code);
        }
    }

    fn word(&mut self) {
        let start = self.at;
        self.take_until(Lane::Code, |s| !s.peek(0).is_some_and(is_word));
        let is_raw_prefix =
            self.rest.get(start..self.at).is_some_and(|word| matches!(word, ['r'] | ['b' | 'c', 'r']));
        if is_raw_prefix {
            let hashes = (0..).take_while(|ahead| self.peek(*ahead) == Some('#')).count();
            if self.peek(hashes) == Some('"') {
                self.raw_string(hashes);
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of a line of code, each with what follows it.
pub(crate) fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let start = rest.find(is_word)?;
        let (_, tail) = rest.split_at(start);
        let end = tail.find(|c| !is_word(c)).unwrap_or(tail.len());
        let (word, after) = tail.split_at(end);
        rest = after;
        Some((word, after))
    })
}

/// One function with a body; both lines counted from 1, both included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first_line: usize,
    pub(crate) last_line: usize,
}

/// All functions with a body in masked code, nested ones too.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_a_word = !code[..at].ends_with(is_word);
        let Some((name, _)) = words(&code[at + 3..]).next() else { continue };
        let item = item_end(code, at);
        if starts_a_word && item.has_body {
            found.push(Function {
                name: name.to_owned(),
                first_line: line_of(code, at),
                last_line: line_of(code, item.end.saturating_sub(1)),
            });
        }
    }
    found
}

/// For each line of masked code: is it part of an item under `#[cfg(test)]`?
pub(crate) fn test_lines(code: &str) -> Vec<bool> {
    let mut lines = vec![false; code.lines().count()];
    for marker in ["#[cfg(test)]", "#[cfg(all(test"] {
        for (at, _) in code.match_indices(marker) {
            let item = item_end(code, at + marker.len());
            let (first, last) = (line_of(code, at), line_of(code, item.end.saturating_sub(1)));
            for line in lines.iter_mut().take(last).skip(first - 1) {
                *line = true;
            }
        }
    }
    lines
}

/// Lines of a crate root whose items are neither modules in other files nor imports.
pub(crate) fn items_beyond_modules(code: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = code[at..].find(|c: char| !c.is_whitespace()) {
        at += offset;
        let rest = &code[at..];
        if rest.starts_with('#') {
            let open = rest.find('[').unwrap_or(rest.len());
            at += closing(rest, open).unwrap_or(rest.len());
            continue;
        }
        let keyword = item_keyword(rest);
        let item = item_end(code, at);
        let fine = match keyword {
            "use" | "extern" => true,
            "mod" => !item.has_body,
            _ => false,
        };
        if !fine {
            found.push(line_of(code, at));
        }
        // The braces of `use a::{b, c};` are a list, not a body: such an item ends at its semicolon.
        at = if keyword == "use" { at + rest.find(';').map_or(rest.len(), |end| end + 1) } else { item.end };
    }
    found
}

fn item_keyword(item: &str) -> &str {
    let mut rest = item;
    if let Some(("pub", after)) = words(rest).next() {
        rest = after.trim_start();
        if rest.starts_with('(') {
            rest = &rest[closing(rest, 0).unwrap_or(rest.len())..];
        }
    }
    words(rest).next().map_or("", |(word, _)| word)
}

struct ItemEnd {
    /// Offset just past the item.
    end: usize,
    has_body: bool,
}

/// Finds where the item that goes on at `from` ends: past its body, or past its semicolon.
fn item_end(code: &str, from: usize) -> ItemEnd {
    let mut depth = 0_i32;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth <= 0 => return ItemEnd { end: from + offset + 1, has_body: false },
            '{' if depth <= 0 => {
                let end = closing(code, from + offset).unwrap_or(code.len());
                return ItemEnd { end, has_body: true };
            }
            _ => {}
        }
    }
    ItemEnd { end: code.len(), has_body: false }
}

/// The offset just past the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, c) in code.get(open..)?.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(open + offset + c.len_utf8());
        }
    }
    None
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let source = "let a = \"fn x() { // no\"; // yes \"\nlet b = r#\"raw \" { \"#; /* c /* d */ e */ f";
        let masked = mask(source);
        assert_eq!(masked.code.lines().count(), 2);
        assert!(!masked.code.contains('{') && !masked.code.contains("yes"));
        assert!(masked.comments.contains("// yes \"") && masked.comments.contains("e */"));
        assert!(!masked.comments.contains("no"));
        assert!(masked.code.trim_end().ends_with('f'));
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        let masked = mask("fn f<'a>(x: &'a str, c: char) -> bool { c == '{' || c == '\\'' || c == '\"' }");
        assert_eq!(masked.code.matches('{').count(), 1);
        assert!(masked.code.contains("&'a str"));
    }

    #[test]
    fn raw_identifiers_are_code_and_byte_strings_are_not() {
        let masked = mask("let r#type = br##\"a \"# b\"##; let c = b'x'; let d = b\"ek\";");
        assert!(masked.code.contains("r#type"));
        assert!(!masked.code.contains("a \"") && !masked.code.contains("ek"));
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_file() {
        for source in ["\"abc", "r#\"abc", "/* abc", "'\\", "br"] {
            assert_eq!(mask(source).code.chars().count(), source.chars().count());
        }
    }

    #[test]
    fn functions_have_their_lines() {
        let code = "trait T {\n    fn declared(x: [u8; 4]);\n}\nfn outer(\n    x: [u8; 4],\n) {\n    fn inner() {}\n}\n";
        let names: Vec<_> =
            functions(code).into_iter().map(|f| (f.name, f.first_line, f.last_line)).collect();
        assert_eq!(names, [("outer".to_owned(), 4, 8), ("inner".to_owned(), 7, 7)]);
    }

    #[test]
    fn a_test_module_is_found_and_ends() {
        let code =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod d;\n";
        assert_eq!(test_lines(code), [false, true, true, true, true, false, true, true]);
    }

    #[test]
    fn a_crate_root_holds_modules_and_imports_only() {
        let code = "#![no_std]\nextern crate alloc;\npub mod a;\npub(crate) mod b;\n#[cfg(test)]\nmod t;\npub use a::{B, c::D};\n";
        assert!(items_beyond_modules(code).is_empty());
        let code = "pub mod a;\nconst N: [u8; 2] = [1; 2];\nmod b { fn x() {} }\nfn f() {}\nmod c;\n";
        assert_eq!(items_beyond_modules(code), [2, 3, 4]);
    }
}
