//! Command-line arguments: few enough to read by hand.

use crate::error::{Failure, Result};

/// What is left of the command line. Each reader takes out what it understands; [`Arguments::finish`] rejects the rest.
#[derive(Debug)]
pub(crate) struct Arguments {
    own: Vec<String>,
    passed_on: Vec<String>,
}

impl Arguments {
    pub(crate) fn from_env() -> Self {
        let all = std::env::args_os()
            .skip(1)
            .map(|argument| argument.to_string_lossy().into_owned());
        Self::new(all.collect())
    }

    fn new(mut own: Vec<String>) -> Self {
        let passed_on = match own.iter().position(|argument| argument == "--") {
            Some(dashes) => {
                let rest = own.split_off(dashes + 1);
                own.pop();
                rest
            }
            None => Vec::new(),
        };
        Self { own, passed_on }
    }

    /// Takes the first argument when it is no option.
    pub(crate) fn positional(&mut self) -> Option<String> {
        let first = self.own.first()?;
        (!first.starts_with("--")).then(|| self.own.remove(0))
    }

    /// Takes `--name` and says whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.own.len();
        self.own.retain(|argument| argument != name);
        self.own.len() != before
    }

    /// Takes `--name VALUE` or `--name=VALUE`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>> {
        for index in 0..self.own.len() {
            if self.own[index] == name {
                if index + 1 == self.own.len() {
                    return Err(Failure::new(format!("{name} needs a value")));
                }
                self.own.remove(index);
                return Ok(Some(self.own.remove(index)));
            }
            let inline = self.own[index]
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='));
            if let Some(value) = inline.map(str::to_owned) {
                self.own.remove(index);
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether an option stands behind `--`.
    pub(crate) fn passes_on(&self, name: &str) -> bool {
        self.passed_on.iter().any(|argument| {
            argument
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    }

    /// Rejects what nobody took; returns what stood behind `--`.
    pub(crate) fn finish(self) -> Result<Vec<String>> {
        match self.own.first() {
            Some(unknown) => Err(Failure::new(format!("unexpected argument `{unknown}`"))
                .hint("run `cargo xtask help`; what belongs to the command that runs goes behind `--`")),
            None => Ok(self.passed_on),
        }
    }

    /// [`Arguments::finish`] for commands that pass nothing on.
    pub(crate) fn finish_all(mut self) -> Result<()> {
        self.own.append(&mut self.passed_on);
        self.finish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn values_flags_and_the_rest() {
        let mut line = arguments("bench serve --json out.json --quick -- --json x");
        assert_eq!(line.positional().as_deref(), Some("bench"));
        assert_eq!(line.positional().as_deref(), Some("serve"));
        assert_eq!(line.value("--json").unwrap().as_deref(), Some("out.json"));
        assert!(line.flag("--quick"));
        assert!(!line.flag("--quick"));
        assert!(line.passes_on("--json") && !line.passes_on("--js") && !line.passes_on("--quick"));
        assert_eq!(line.finish().unwrap(), ["--json", "x"]);
    }

    #[test]
    fn a_value_may_follow_an_equals_sign() {
        let mut line = arguments("--filter=abc");
        assert_eq!(line.value("--filter").unwrap().as_deref(), Some("abc"));
        line.finish_all().unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        let missing = arguments("--filter").value("--filter").unwrap_err();
        assert!(
            missing.to_string().contains("--filter needs a value"),
            "{missing}"
        );
        let unknown = arguments("--fliter abc").finish().unwrap_err();
        assert!(unknown.to_string().contains("`--fliter`"), "{unknown}");
        let passed = arguments("-- abc").finish_all().unwrap_err();
        assert!(passed.to_string().contains("`abc`"), "{passed}");
    }
}
