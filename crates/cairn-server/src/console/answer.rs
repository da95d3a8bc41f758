//! What the console answers: pure.

use serde::Serialize;

/// A page of the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    Metrics,
    Health,
    Readiness,
}

/// Methods that the pages know. HEAD is answered by the HTTP library: as GET, without the body.
const ALLOWED: &str = "GET, HEAD";

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Reason {
    /// For programs: one word, stable.
    pub(crate) what: &'static str,
    /// For people.
    pub(crate) detail: String,
}

impl Reason {
    pub(crate) fn new(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, detail: detail.into() }
    }
}

/// What a role says of itself: good when there is no reason against it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) reasons: Vec<Reason>,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.reasons.is_empty()
    }
}

impl From<Result<(), Reason>> for Verdict {
    fn from(result: Result<(), Reason>) -> Self {
        Self { reasons: result.err().into_iter().collect() }
    }
}

impl FromIterator<Reason> for Verdict {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        Self { reasons: reasons.into_iter().collect() }
    }
}

/// An HTTP response, before it is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) allow: Option<&'static str>,
    pub(super) body: String,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Which page a request asks for, or how it is refused.
pub(super) fn page_of(method: &str, path: &str) -> Result<Page, Answer> {
    let page = match path {
        "/metrics" => Page::Metrics,
        "/healthz" => Page::Health,
        "/readyz" => Page::Readiness,
        _ => {
            let body = "there are /metrics, /healthz and /readyz\n".to_owned();
            return Err(Answer { status: 404, content_type: TEXT, allow: None, body });
        }
    };
    match method {
        "GET" | "HEAD" => Ok(page),
        _ => {
            let body = format!("only {ALLOWED} are answered\n");
            Err(Answer { status: 405, content_type: TEXT, allow: Some(ALLOWED), body })
        }
    }
}

impl Answer {
    pub(super) fn metrics(page: String) -> Self {
        Self { status: 200, content_type: cairn_metrics::CONTENT_TYPE, allow: None, body: page }
    }

    /// 200, or 503 with the reasons: `{"ready":false,"reasons":[{"what":"full","detail":"..."}]}`.
    pub(super) fn verdict(adjective: &str, verdict: &Verdict) -> Self {
        let body = serde_json::json!({ adjective: verdict.is_good(), "reasons": verdict.reasons });
        let status = if verdict.is_good() { 200 } else { 503 };
        Self { status, content_type: JSON, allow: None, body: format!("{body}\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_pages() {
        assert_eq!(page_of("GET", "/metrics"), Ok(Page::Metrics));
        assert_eq!(page_of("HEAD", "/healthz"), Ok(Page::Health));
        assert_eq!(page_of("GET", "/readyz"), Ok(Page::Readiness));
        for path in ["", "/", "/metrics/", "/Metrics", "/../metrics", "*"] {
            assert_eq!(page_of("GET", path).expect_err(path).status, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            let refusal = page_of(method, "/metrics").expect_err(method);
            assert_eq!((refusal.status, refusal.allow), (405, Some("GET, HEAD")), "{method}");
        }
        assert_eq!(page_of("POST", "/").expect_err("no page").status, 404);
    }

    #[test]
    fn verdicts_say_why() {
        let good = Answer::verdict("ready", &Verdict::default());
        assert_eq!((good.status, good.body.as_str()), (200, "{\"ready\":true,\"reasons\":[]}\n"));
        let bad = Verdict::from_iter([Reason::new("full", "store 1 has \"no\" room")]);
        let bad = Answer::verdict("ready", &bad);
        assert_eq!(bad.status, 503);
        let body: serde_json::Value = serde_json::from_str(&bad.body).expect("it is JSON");
        assert_eq!(body["reasons"][0]["detail"], "store 1 has \"no\" room");
        assert_eq!(body["ready"], false);
    }
}
