//! Rendering of the source: YAML whose comments say what differs where (`manifests/source/README.md`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The source's files.
#[derive(Debug)]
pub(super) struct Source {
    files: Vec<File>,
    snippets: BTreeMap<String, String>,
    chart: BTreeMap<String, String>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct File {
    /// Its name where it goes.
    pub(super) name: String,
    /// The variant whose it is, if it is not of all.
    pub(super) variant: Option<String>,
    text: String,
}

/// For what.
#[derive(Debug)]
pub(super) enum Target<'a> {
    /// YAML of these variants.
    Variants(&'a [&'a str]),
    /// A template in which a variant is a condition.
    Chart(&'a [(&'a str, &'a str)]),
}

impl File {
    /// Whether it is part of what has these variants.
    pub(super) fn is_in(&self, variants: &[&str]) -> bool {
        self.variant.as_deref().is_none_or(|variant| variants.contains(&variant))
    }
}

/// The chart's condition of a variant.
pub(super) fn condition<'a>(conditions: &[(&str, &'a str)], variant: &str) -> Result<&'a str> {
    let found = conditions.iter().find(|(name, _)| *name == variant);
    found.map(|(_, condition)| *condition).with_context(|| format!("the chart has no condition for {variant}"))
}

impl Source {
    /// Reads all of it; the version is filled in.
    pub(super) fn read(folder: &Path, version: String) -> Result<Self> {
        let texts = |folder: &Path| -> Result<BTreeMap<String, String>> {
            let mut texts = BTreeMap::new();
            for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_file() && name != "README.md" {
                    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                    texts.insert(name, text.replace("@VERSION@", &version));
                }
            }
            Ok(texts)
        };
        let snippets = texts(&folder.join("snippets"))?;
        let files = texts(folder)?.into_iter().map(|(name, text)| {
            let bare = name.trim_end_matches(".yaml");
            match bare.split_once('.') {
                None => File { name, variant: None, text },
                Some((variant, rest)) => {
                    let name =
                        if rest.contains(variant) { format!("{rest}.yaml") } else { format!("{variant}-{rest}.yaml") };
                    File { name, variant: Some(variant.to_owned()), text }
                }
            }
        });
        let files = files.collect();
        let snippets =
            snippets.into_iter().map(|(name, text)| (name.trim_end_matches(".yaml").to_owned(), text)).collect();
        Ok(Self { files, snippets, chart: texts(&folder.join("chart"))? })
    }

    /// All files but the chart's own and the snippets.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// The chart's own, name to text.
    pub(super) fn chart(&self) -> &BTreeMap<String, String> {
        &self.chart
    }

    /// A file for a target.
    pub(super) fn render(&self, file: &File, target: &Target<'_>) -> Result<String> {
        let mut lines = Vec::new();
        self.include(&file.text, "", &mut lines).with_context(|| file.name.clone())?;
        render(&lines, target).with_context(|| file.name.clone())
    }

    fn include(&self, text: &str, indent: &str, into: &mut Vec<String>) -> Result<()> {
        for line in text.lines() {
            let (own, rest) = split(line);
            match rest.strip_prefix("#include ") {
                Some(name) => {
                    let snippet =
                        self.snippets.get(name.trim()).with_context(|| format!("there is no snippet {name}"))?;
                    self.include(snippet, &format!("{indent}{own}"), into)?;
                }
                None if rest.is_empty() => into.push(String::new()),
                None => into.push(format!("{indent}{line}")),
            }
        }
        Ok(())
    }
}

/// A line's indentation and the rest of it.
fn split(line: &str) -> (&str, &str) {
    let rest = line.trim_start_matches(' ');
    (line.get(..line.len() - rest.len()).unwrap_or_default(), rest)
}

/// A branch that we are in: of which variant, and whether its lines count.
struct Branch {
    counts: bool,
}

fn render(lines: &[String], target: &Target<'_>) -> Result<String> {
    let mut out = String::new();
    let mut branches: Vec<Branch> = Vec::new();
    // Lines deeper than this are replaced by an expression.
    let mut replaced: Option<usize> = None;
    for line in lines {
        let (indent, rest) = split(line);
        if let Some(variant) = rest.strip_prefix("#if ") {
            let variant = variant.trim();
            match target {
                Target::Variants(variants) => branches.push(Branch { counts: variants.contains(&variant) }),
                Target::Chart(conditions) => {
                    branches.push(Branch { counts: true });
                    out.push_str(&format!("{indent}{{{{- if {} }}}}\n", condition(conditions, variant)?));
                }
            }
            continue;
        }
        if rest == "#else" {
            let branch = branches.last_mut().context("#else without #if")?;
            match target {
                Target::Variants(_) => branch.counts = !branch.counts,
                Target::Chart(_) => out.push_str(&format!("{indent}{{{{- else }}}}\n")),
            }
            continue;
        }
        if rest == "#end" {
            branches.pop().context("#end without #if")?;
            if matches!(target, Target::Chart(_)) {
                out.push_str(&format!("{indent}{{{{- end }}}}\n"));
            }
            continue;
        }
        if !branches.iter().all(|branch| branch.counts) {
            continue;
        }
        if let Some(of) = replaced {
            if rest.is_empty() || indent.len() > of {
                continue;
            }
            replaced = None;
        }
        if let Some(text) = rest.strip_prefix("#> ") {
            if matches!(target, Target::Chart(_)) {
                out.push_str(&format!("{indent}{text}\n"));
            }
            continue;
        }
        let Some((yaml, expression)) = line.split_once("#= ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let yaml = yaml.trim_end();
        if matches!(target, Target::Variants(_)) {
            out.push_str(yaml);
            out.push('\n');
            continue;
        }
        let key = match yaml.split_once(": ") {
            Some((key, _)) => format!("{key}:"),
            None => {
                ensure!(yaml.ends_with(':'), "\"{line}\" has neither a value nor lines below it to replace");
                replaced = Some(indent.len());
                yaml.to_owned()
            }
        };
        out.push_str(&format!("{key} {expression}\n"));
    }
    if !branches.is_empty() {
        bail!("#if without #end");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# said to everybody
kind: ConfigMap #= {{ .Values.kind }}
data:
  #if etcd
  store: etcd
  #else
  store: kubernetes
  #end
  #> extra: {{ .Values.extra }}
  list: #= {{- toYaml .Values.list | nindent 4 }}
    - a

    - b
  after: 1";

    fn of(target: &Target<'_>) -> String {
        render(&TEXT.lines().map(str::to_owned).collect::<Vec<_>>(), target).unwrap()
    }

    #[test]
    fn a_variant_is_plain_yaml_with_its_own_lines() {
        let plain = "# said to everybody\nkind: ConfigMap\ndata:\n  store: kubernetes\n  list:\n    - a\n\n    - b\n  after: 1\n";
        assert_eq!(of(&Target::Variants(&[])), plain);
        assert_eq!(of(&Target::Variants(&["etcd"])), plain.replace("kubernetes", "etcd"));
    }

    #[test]
    fn the_chart_has_conditions_and_values() {
        let chart = "# said to everybody\nkind: {{ .Values.kind }}\ndata:\n  {{- if .Values.etcd }}\n  store: etcd\n  {{- else }}\n  \
                     store: kubernetes\n  {{- end }}\n  extra: {{ .Values.extra }}\n  list: {{- toYaml .Values.list | nindent 4 }}\n  after: 1\n";
        assert_eq!(of(&Target::Chart(&[("etcd", ".Values.etcd")])), chart);
    }

    #[test]
    fn what_is_not_closed_or_not_known_is_an_error() {
        let fails = |text: &str| render(&[text.to_owned()], &Target::Chart(&[])).unwrap_err().to_string();
        assert!(fails("#end").contains("#end"));
        assert!(fails("#if moon").contains("moon"));
        assert!(fails("just text #= {{ x }}").contains("just text"));
    }
}
