//! The one page for people, and the contract for programs. Everything is in the binary; nothing is read from disk.

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

/// The page runs its own script and asks its own server, nothing else (HOSTILE A13, A14).
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

fn asset(media_type: &'static str, content: &'static str) -> Response {
    let mut response = content.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

/// `GET /`
pub(super) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("web/page.html"))
}

/// `GET /page.css`
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("web/page.css"))
}

/// `GET /page.js`
pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("web/page.js"))
}

/// `GET /openapi.json`
pub(super) async fn contract() -> Response {
    asset("application/json", include_str!("web/openapi.json"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a13_the_page_never_makes_html_of_text() {
        let script = include_str!("web/page.js");
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"] {
            assert!(!script.contains(way), "{way}");
        }
        let page = include_str!("web/page.html");
        for inline in ["<style", "style=", "onclick", "onload", "javascript:", "http://", "https://"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }
}
