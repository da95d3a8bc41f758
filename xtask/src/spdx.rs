//! License expressions: `MIT OR (Apache-2.0 WITH LLVM-exception AND 0BSD)`, and the old form `MIT/Apache-2.0`.
//!
//! The grammar is annex D of the SPDX specification 2.3; AND binds tighter than OR. `+` is not treated specially.

use anyhow::{Result, bail};

/// Whether a set of allowed licenses satisfies an expression.
///
/// # Errors
/// The expression does not follow the grammar.
pub fn allowed(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, next: 0, is_allowed };
    let value = parser.any()?;
    if parser.next != words.len() {
        bail!("`{expression}` is not a license expression: unexpected `{}`", words[parser.next]);
    }
    Ok(value)
}

struct Parser<'a> {
    words: &'a [&'a str],
    next: usize,
    is_allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Parser<'a> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.next) == Some(&word);
        self.next += usize::from(found);
        found
    }

    fn name(&mut self) -> Result<&'a str> {
        match self.words.get(self.next) {
            Some(&word) if !["AND", "OR", "WITH", "(", ")"].contains(&word) => {
                self.next += 1;
                Ok(word)
            }
            found => bail!("a license expression lacks a name at {found:?}"),
        }
    }

    fn any(&mut self) -> Result<bool> {
        let mut value = self.all()?;
        while self.take("OR") {
            value |= self.all()?;
        }
        Ok(value)
    }

    fn all(&mut self) -> Result<bool> {
        let mut value = self.one()?;
        while self.take("AND") {
            value &= self.one()?;
        }
        Ok(value)
    }

    fn one(&mut self) -> Result<bool> {
        if self.take("(") {
            let value = self.any()?;
            if !self.take(")") {
                bail!("a license expression lacks `)`");
            }
            return Ok(value);
        }
        let name = self.name()?;
        if !self.take("WITH") {
            return Ok((self.is_allowed)(name));
        }
        let exception = self.name()?;
        Ok((self.is_allowed)(&format!("{name} WITH {exception}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str) -> bool {
        let list = ["MIT", "0BSD", "Apache-2.0 WITH LLVM-exception"];
        allowed(expression, &|name| list.contains(&name)).unwrap()
    }

    #[test]
    fn one_allowed_alternative_is_enough() {
        assert!(check("MIT"));
        assert!(check("GPL-3.0 OR MIT"));
        assert!(check("GPL-3.0/MIT"));
        assert!(check("Apache-2.0 WITH LLVM-exception"));
        assert!(check("(GPL-3.0 OR MIT) AND 0BSD"));
        assert!(check("GPL-3.0 AND BSD OR MIT"));
    }

    #[test]
    fn every_conjunct_must_be_allowed() {
        assert!(!check("GPL-3.0"));
        assert!(!check("MIT AND GPL-3.0"));
        assert!(!check("Apache-2.0"));
        assert!(!check("MIT WITH LLVM-exception"));
        assert!(!check("MIT AND (GPL-3.0 OR BSD)"));
    }

    #[test]
    fn broken_expressions_are_errors() {
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "WITH MIT", "AND"] {
            assert!(allowed(broken, &|_| true).is_err(), "{broken}");
        }
    }
}
