//! Lines of the text form of metrics.

/// One value, with its name and the text of its labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// The value of a label. Those that are read here hold no quotes.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
    }
}

/// All samples of a page; time stamps are passed over.
pub(super) fn samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => {
                let (labels, rest) = rest.rsplit_once('}')?;
                (name, labels, rest)
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Sample { name, labels, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let page = "# HELP a b\na 1\nb{c=\"d\",e=\"\"} 2.5 1795607227371\n";
        let found: Vec<_> = samples(page).collect();
        let sample = |name, labels, value| Sample { name, labels, value };
        assert_eq!(found, [sample("a", "", 1.0), sample("b", "c=\"d\",e=\"\"", 2.5)]);
        let labels: Vec<_> = found.iter().map(|it| (it.label("c"), it.label("e"))).collect();
        assert_eq!(labels, [(None, None), (Some("d"), Some(""))]);
    }
}
