//! Which handler answers which path, and the bounds on all of them (DESIGN §4).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::timeout;

use super::error::ApiError;
use super::{App, announce, events, files, items, lease, limits, publish, status, web};

/// All routes. `/openapi.json` describes each of them.
pub(super) fn all(app: &Arc<App>) -> Router {
    let dated = middleware::from_fn_with_state(Arc::clone(app), items::as_of);
    let answers = Router::new()
        .route("/api/v1/items", get(items::list).post(items::look_up))
        .route("/items/{*name}", get(items::export))
        .layer(dated.clone())
        .route("/", get(web::page))
        .route("/page.css", get(web::style))
        .route("/page.js", get(web::script))
        .route("/openapi.json", get(web::contract))
        .route("/api/v1/peers", get(status::peers))
        .route("/api/v1/status", get(status::status))
        .route("/healthz", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::metrics))
        .layer(middleware::from_fn(in_time));
    // Bodies that come in have times of their own.
    let changes = Router::new()
        .route("/api/v1/items/{*name}", get(items::show).put(publish::publish).delete(publish::withdraw))
        .layer(dated);
    let bounded = answers.merge(changes).layer(middleware::from_fn_with_state(Arc::clone(app), one_of_many));
    // Streams hold their place as long as they last, so they are counted apart.
    let streams = Router::new().route("/files/{*name}", get(files::serve)).route("/api/v1/events", get(events::listen));
    bounded
        .merge(streams)
        .merge(announce::routes())
        .merge(lease::routes())
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this method does not work here")
        })
        .with_state(Arc::clone(app))
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(limits::ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::busy("the answer took too long").into_response(),
    }
}

async fn one_of_many(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(_turn) = app.requests.try_acquire() else {
        return ApiError::busy("too many requests at once").into_response();
    };
    next.run(request).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_contract_describes_every_route() {
        let contract: serde_json::Value = serde_json::from_str(include_str!("web/openapi.json")).unwrap();
        let described = contract["paths"].as_object().unwrap();
        let sources = [include_str!("routes.rs"), include_str!("announce.rs"), include_str!("lease.rs")];
        let code = sources.map(|source| source.split("#[cfg(test)]").next().unwrap()).concat();
        let calls = code.split(".route(").skip(1);
        let paths: Vec<&str> = calls.map(|call| call.split('"').nth(1).unwrap()).collect();
        assert!(paths.len() >= 17, "{paths:?}");
        for path in paths {
            let names = match path {
                "/items/{*name}" => vec!["/items/{name}.torrent".to_owned(), "/items/{name}.magnet".to_owned()],
                other => vec![other.replace("{*", "{")],
            };
            for name in names {
                assert!(described.contains_key(&name), "{name}");
            }
        }
    }
}
