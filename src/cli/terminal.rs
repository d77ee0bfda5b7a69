//! What is written for people: nothing in it commands the terminal.
//!
//! Names come from job files, and from whoever sends traces; errors may hold what a server said. A control character among them
//! could repaint the screen, retitle the window or write to the clipboard; one that turns the direction of writing round makes
//! words read otherwise than they are. They are shown as JSON writes them (`\u001b`), so that a report in JSON stays what it is.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

/// What is reported.
pub(super) fn stdout() -> Printable<io::Stdout> {
    Printable(io::stdout())
}

/// What is said beside it.
pub(super) fn stderr() -> Printable<io::Stderr> {
    Printable(io::stderr())
}

/// Says something on stderr, as `eprintln!` does. Where nobody hears it, it is not said.
macro_rules! say {
    ($($text:tt)*) => {{
        // In one piece, so that no line of the log comes in between.
        let line = format!("{}\n", format_args!($($text)*));
        let _nobody_hears = std::io::Write::write_all(
            &mut $crate::cli::terminal::stderr(),
            line.as_bytes(),
        );
    }};
}
pub(super) use say;

/// Passes on what can be printed, and shows what cannot.
#[derive(Debug)]
pub(super) struct Printable<W>(W);

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(printable(text).as_bytes())?,
            // Texts are written whole: these are none.
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A text whose control characters, but for line ends and tabs, are shown instead of obeyed.
fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, '\n' | '\t') || !commands(c);
    if text.chars().all(is_plain) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            show(&mut shown, c);
        }
    }
    shown.into()
}

/// A name as part of a line: line ends and tabs are shown too.
pub(super) fn in_line(name: &str) -> Cow<'_, str> {
    if !name.chars().any(commands) {
        return name.into();
    }
    let mut shown = String::with_capacity(name.len() + 16);
    for c in name.chars() {
        if commands(c) {
            show(&mut shown, c);
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Whether a character does something other than stand there.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn show(shown: &mut String, c: char) {
    // All of these have four digits. Writing to a string does not fail.
    let _ = write!(shown, "\\u{:04x}", u32::from(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        for (text, shown) in [
            ("plain, größe, 日本\n\t|", "plain, größe, 日本\n\t|"),
            ("a\u{1b}[2Jb\r", "a\\u001b[2Jb\\u000d"),
            ("\u{9b}31m\u{7f}", "\\u009b31m\\u007f"),
            ("user\u{202e}txt.exe", "user\\u202etxt.exe"),
        ] {
            assert_eq!(printable(text), shown);
            let mut written = Printable(Vec::new());
            write!(written, "{text}").unwrap();
            assert_eq!(String::from_utf8(written.0).unwrap(), shown);
        }
        assert_eq!(in_line("a\nb"), "a\\u000ab");
    }

    #[test]
    fn a_report_in_json_stays_what_it_is() {
        let value = serde_json::json!({"name": "\u{1b}\u{85}\u{202e}\u{7f}\"\\ü"});
        let json = serde_json::to_string(&value).unwrap();
        let read: serde_json::Value = serde_json::from_str(&printable(&json)).unwrap();
        assert_eq!(read, value);
    }
}
