//! A command that readers are told to run.

use std::fmt;
use std::path::PathBuf;

/// What ends a command, and what of a command is not its words.
const OPERATORS: [&str; 4] = ["|", "&&", "||", ";"];
const REDIRECTIONS: [&str; 3] = [">", ">>", "<"];

/// A command of a shell. It is shown with its page and the line of its block.
#[derive(Clone, Debug)]
pub struct Command {
    /// The page's path below the root.
    pub page: PathBuf,
    /// The line of the page on which the block begins, from 1 on.
    pub line: usize,
    /// The program and its arguments, without quotes.
    pub words: Vec<String>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.page.display(), self.line, self.words.join(" "))
    }
}

/// The words of each command of a script. Of the shell only what documentation needs is understood: quotes,
/// comments, lines that go on, pipes, redirections, variables before a command and here documents.
pub(crate) fn split(script: &str) -> Vec<Vec<String>> {
    let script = script.replace("\\\n", " ");
    let mut commands = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if let Some((_, end)) = line.split_once("<<") {
            let end = end.trim_matches(['-', '\'', '"', ' ']);
            lines.by_ref().find(|line| line.trim() == end);
        }
        let words = shlex::split(line).unwrap_or_default();
        for words in words.split(|word| OPERATORS.contains(&word.as_str())) {
            let is_word = |word: &&String| !REDIRECTIONS.contains(&word.as_str()) && !word.starts_with("<<");
            let words = words.iter().skip_while(|word| word.contains('=')).take_while(is_word);
            commands.push(words.cloned().collect::<Vec<_>>());
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_script_is_split_into_commands() {
        let script = "# a comment\nA=b drop demo --speed 60   # fast\nkubectl get nodes -o yaml | drop demo \\\n  -f - \
                      > out\nkubectl apply -f - <<'EOF'\nkind: X\nEOF\nhelm list && true\n";
        let commands: Vec<String> = split(script).iter().map(|words| words.join(" ")).collect();
        let expected = [
            "drop demo --speed 60",
            "kubectl get nodes -o yaml",
            "drop demo -f -",
            "kubectl apply -f -",
            "helm list",
            "true",
        ];
        assert_eq!(commands, expected);
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(split("helm x --set 'a={b c}'"), [["helm", "x", "--set", "a={b c}"]]);
    }
}
