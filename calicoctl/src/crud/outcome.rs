//! What is said at the end of a command that handled several resources.

use std::process::ExitCode;

use anyhow::Result;
use calico_api::Kind;

use crate::output;

/// What became of the resources of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `create`, `apply`, …
    verb: &'static str,
    /// `created`, `applied`, …
    past: &'static str,
    /// Kinds of all resources.
    kinds: Vec<Kind>,
    /// How many were done.
    handled: usize,
    errors: Vec<String>,
}

impl Outcome {
    /// Nothing is handled yet.
    pub(crate) fn new(verb: &'static str, past: &'static str, kinds: Vec<Kind>) -> Self {
        Self { verb, past, kinds, handled: 0, errors: Vec::new() }
    }

    /// One more.
    pub(crate) fn add(&mut self, done: Result<()>) {
        match done {
            Ok(()) => self.handled += 1,
            Err(error) => self.errors.push(format!("{error:#}")),
        }
    }

    /// Whether what failed counts as handled too, as Calico's `replace` has it.
    fn counts_failures(&self) -> bool {
        self.verb == "replace"
    }

    /// Says it, and returns the exit code.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub(crate) fn tell(&self) -> Result<ExitCode> {
        let (out, err) = self.texts();
        output::print(&out)?;
        output::errors(&err)?;
        Ok(if self.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// What goes to standard output and what to standard error.
    fn texts(&self) -> (String, String) {
        let Self { verb, past, handled, .. } = self;
        let total = self.kinds.len();
        let mut kinds = self.kinds.clone();
        kinds.dedup();
        let kind = match kinds.as_slice() {
            [kind] => format!("'{kind}' "),
            _ => String::new(),
        };
        let errors = format!("[{}]", self.errors.join(" "));
        if self.errors.is_empty() {
            (format!("Successfully {past} {handled} {kind}resource(s)\n"), String::new())
        } else if self.counts_failures() {
            let partial = format!("Partial success: {past} the first {total} out of {total} {kind}resources:\n");
            let errors = if let [only] = self.errors.as_slice() { only } else { &errors };
            (partial, format!("hit error: {errors}\n"))
        } else if *handled == 0 {
            let which = match total {
                1 => format!("{kind}resource"),
                _ => format!("any {kind}resources"),
            };
            (String::new(), format!("failed to {verb} {which}: {errors}\n"))
        } else {
            // Said only where more went well than did not.
            let partial = (*handled > self.errors.len())
                .then(|| format!("Partial success: {past} the first {handled} out of {total} {kind}resources:\n"));
            (partial.unwrap_or_default(), format!("hit error: {errors}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[track_caller]
    fn check(kinds: &[Kind], results: Vec<Result<()>>, out: &str, err: &str) {
        check_verb("create", "created", kinds, results, out, err);
    }

    #[track_caller]
    fn check_verb(
        verb: &'static str,
        past: &'static str,
        kinds: &[Kind],
        results: Vec<Result<()>>,
        out: &str,
        err: &str,
    ) {
        let mut outcome = Outcome::new(verb, past, kinds.to_vec());
        results.into_iter().for_each(|result| outcome.add(result));
        assert_eq!(outcome.texts(), (out.to_owned(), err.to_owned()));
    }

    #[test]
    fn texts_are_those_that_scripts_match() {
        use Kind::{BGPPeer, IPPool};
        check(&[IPPool], vec![Ok(())], "Successfully created 1 'IPPool' resource(s)\n", "");
        check(&[IPPool, BGPPeer], vec![Ok(()), Ok(())], "Successfully created 2 resource(s)\n", "");
        check(&[BGPPeer], vec![Err(anyhow!("no"))], "", "failed to create 'BGPPeer' resource: [no]\n");
        let two = || vec![Err(anyhow!("a")), Err(anyhow!("b"))];
        check(&[BGPPeer, BGPPeer], two(), "", "failed to create any 'BGPPeer' resources: [a b]\n");
        check(&[BGPPeer, IPPool], two(), "", "failed to create any resources: [a b]\n");
        check(&[BGPPeer, BGPPeer], vec![Ok(()), Err(anyhow!("no"))], "", "hit error: [no]\n");
        check(
            &[BGPPeer, BGPPeer, BGPPeer],
            vec![Ok(()), Err(anyhow!("no")), Ok(())],
            "Partial success: created the first 2 out of 3 'BGPPeer' resources:\n",
            "hit error: [no]\n",
        );
        check_verb(
            "replace",
            "replaced",
            &[BGPPeer],
            vec![Err(anyhow!("no"))],
            "Partial success: replaced the first 1 out of 1 'BGPPeer' resources:\n",
            "hit error: no\n",
        );
    }
}
