//! `calicoctl label`.

use std::cell::Cell;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::patch::{change, key};
use crate::arguments::{Globals, Label};
use crate::{client, output};

/// What is to be done with one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish<'a> {
    Set { label: &'a str, value: &'a str, overwrite: bool },
    Remove { label: &'a str },
}

/// Runs it.
pub(crate) async fn label(flags: &Label, globals: &Globals) -> Result<ExitCode> {
    let wish = Wish::of(&flags.label, flags.overwrite, flags.remove)?;
    let resource = key(&flags.kind, &flags.name, flags.namespace.as_deref())?;
    let store = client::open_gated(globals).await?;
    let (kind, name) = (&flags.kind, &flags.name);
    let replaced = Cell::new(false);
    change(&store, &resource, |value| {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| anyhow!("{resource} has no metadata"))?;
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        let labels = labels.as_object_mut().ok_or_else(|| anyhow!("the labels of {resource} are no map"))?;
        replaced.set(wish.fulfil(labels, kind, name)?);
        Ok(())
    })
    .await?;
    output::print(&match wish {
        Wish::Remove { label } => format!("Successfully removed label {label} from {kind} {name}\n"),
        Wish::Set { label, .. } if replaced.get() => format!("Successfully updated label {label} on {kind} {name}\n"),
        Wish::Set { label, .. } => format!("Successfully set label {label} on {kind} {name}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Wish<'a> {
    fn of(text: &'a str, overwrite: bool, remove: bool) -> Result<Self> {
        match (remove, text.split_once('=')) {
            // As it was set, so it may be written to be removed.
            (true, parts) => Ok(Self::Remove { label: parts.map_or(text, |(label, _)| label) }),
            (false, Some((label, value))) if !label.is_empty() => Ok(Self::Set { label, value, overwrite }),
            (false, _) => bail!("invalid label {text}: expected key=value, or a key with --remove"),
        }
    }

    /// Does it; says whether another value was there.
    fn fulfil(self, labels: &mut Map<String, Value>, kind: &str, name: &str) -> Result<bool> {
        match self {
            Self::Remove { label } => match labels.remove(label) {
                Some(_) => Ok(false),
                None => bail!("can not remove label from {kind} {name}, key {label} does not exist."),
            },
            Self::Set { label, value, overwrite } => {
                let other = labels.get(label).is_some_and(|there| there != value);
                if other && !overwrite {
                    bail!(
                        "failed to update label on {kind} {name}, key {label} is already present. please use '--overwrite' to set a new value."
                    )
                }
                labels.insert(label.to_owned(), value.into());
                Ok(other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, overwrite: bool, remove: bool, expect: Result<(Value, bool), &str>) {
        let mut labels = json!({"rack": "a"}).as_object().unwrap().clone();
        let done = Wish::of(text, overwrite, remove).and_then(|wish| wish.fulfil(&mut labels, "nodes", "n"));
        match (done, expect) {
            (Ok(replaced), Ok(expect)) => assert_eq!((Value::from(labels), replaced), expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_value_is_only_overwritten_when_that_is_asked_for() {
        check("zone=b", false, false, Ok((json!({"rack": "a", "zone": "b"}), false)));
        check("zone=", false, false, Ok((json!({"rack": "a", "zone": ""}), false)));
        check("rack=a", false, false, Ok((json!({"rack": "a"}), false)));
        check("rack=b", false, false, Err("key rack is already present. please use '--overwrite'"));
        check("rack=b", true, false, Ok((json!({"rack": "b"}), true)));
        check("rack", false, true, Ok((json!({}), false)));
        check("rack=a", false, true, Ok((json!({}), false)));
        check("zone", false, true, Err("can not remove label from nodes n, key zone does not exist."));
        check("zone", false, false, Err("invalid label zone"));
    }
}
