//! The forms in which metrics are written.

/// The two forms that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    OpenMetrics,
    /// What everything else reads, `promtool check metrics` among it.
    Text,
}

impl Form {
    pub(super) fn accepted(accepts: &str) -> Self {
        match accepts.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// An exposition in OpenMetrics in this form: the older one names counters and infos by their samples, and knows neither
    /// infos, units nor an end.
    pub(super) fn of(self, exposition: String) -> String {
        if self == Self::OpenMetrics {
            return exposition;
        }
        let mut text = String::with_capacity(exposition.len());
        let mut lines = exposition.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(comment) = line.strip_prefix("# ") else {
                text.push_str(line);
                text.push('\n');
                continue;
            };
            // HELP stands before TYPE, and is named by it.
            if let Some((name, help)) = comment
                .strip_prefix("HELP ")
                .and_then(|rest| rest.split_once(' '))
            {
                let kind = lines
                    .peek()
                    .and_then(|line| line.rsplit(' ').next())
                    .unwrap_or("untyped");
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                text.push_str(&format!(
                    "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"
                ));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Form::accepted(prometheus), Form::OpenMetrics);
        assert_eq!(Form::accepted("text/plain"), Form::Text);
        assert_eq!(Form::accepted(""), Form::Text);
    }
}
