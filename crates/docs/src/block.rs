//! A block of code.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use crate::{Command, command, root};

/// How mdBook includes a file.
const INCLUDE: &str = "{{#include ";

/// A fenced block of code. It is shown as its page and line.
#[derive(Clone, Debug)]
pub struct Block {
    /// The page's path below the root.
    pub page: PathBuf,
    /// The line of the page on which it begins, from 1 on.
    pub line: usize,
    /// The first word of its info string, such as `yaml`.
    pub language: String,
    marks: Vec<String>,
    /// What is written in it.
    pub text: String,
}

impl Block {
    pub(crate) fn new(page: &Path, line: usize, info: &str) -> Self {
        let mut words = info.split_whitespace().map(str::to_owned);
        let language = words.next().unwrap_or_default();
        Self { page: page.to_owned(), line, language, marks: words.collect(), text: String::new() }
    }

    /// Whether its info string has this word behind the language: `refused` for objects that the API server
    /// does not accept, `values` for values of the chart `drop`.
    #[must_use]
    pub fn is(&self, mark: &str) -> bool {
        self.marks.iter().any(|other| other == mark)
    }

    /// The commands of a block of `bash`, and those behind a prompt in one of `console`.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        let lines = match self.language.as_str() {
            "bash" => self.text.clone(),
            "console" => self.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>().join("\n"),
            _ => String::new(),
        };
        let all = command::split(&lines).into_iter();
        all.map(|words| Command { page: self.page.clone(), line: self.line, words }).collect()
    }

    /// Puts what is included in its place.
    pub(crate) fn include(&mut self) -> io::Result<()> {
        while let Some((before, rest)) = self.text.split_once(INCLUDE) {
            let (file, after) = rest.split_once("}}").unwrap_or((rest, ""));
            let path = self.page.parent().unwrap_or(Path::new("")).join(file.trim());
            let included = fs::read_to_string(root().join(&path));
            let included = included
                .map_err(|error| io::Error::new(error.kind(), format!("{self}: {}: {error}", path.display())))?;
            self.text = format!("{before}{included}{after}");
        }
        Ok(())
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page.display(), self.line)
    }
}
