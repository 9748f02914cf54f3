//! What is told of jobs [S004-09..11].

use super::record::{Name, Record, State, Trouble};
use crate::proxy::later::Told;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

/// Jobs in a list at most, the newest.
pub const MOST_LISTED: usize = 1000;

/// One job; what it has not is left out.
#[derive(Serialize)]
struct View<'a> {
    request_id: &'a str,
    status: State,
    request: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
    timestamp: u64,
    queue_position: usize,
    active_requests: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<serde_json::Value>,
}

/// One job whole.
pub fn job(name: &Name, record: &Record, position: usize, active: usize) -> Told {
    // A full disk can keep the end of a job from being written, but not from being known.
    let lost = || Trouble {
        message: "The end of this job could not be stored; the log has the details.".into(),
        kind: "storage_error".into(),
        attempts: 0,
    };
    let error = (name.state == State::Error).then(|| record.error.clone().unwrap_or_else(lost));
    let webhook = record.webhook.as_ref().map(|url| match &record.delivery {
        Some(delivery) => {
            json!({"url": url, "status": delivery.status, "attempts": delivery.attempts, "error": delivery.error})
        }
        None => json!({"url": url, "status": "pending"}),
    });
    let view = View {
        request_id: &name.id,
        status: name.state,
        request: &record.request,
        response: record.response.as_deref().filter(|_| name.state == State::Completed),
        error,
        timestamp: name.timestamp(),
        queue_position: position,
        active_requests: active,
        webhook,
    };
    let body = serde_json::to_vec(&view).unwrap_or_default();
    Told { status: StatusCode::OK, body, fields: Vec::new() }
}

/// The disk, or a want of descriptors, is in the way.
pub fn unreadable() -> Told {
    let error = json!({"message": "The job cannot be read at the moment; ask again.", "type": "storage_error"});
    let mut told = Told::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error }));
    told.fields.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
    told
}

/// No such job, or somebody else's [S004-11].
pub fn not_found() -> Told {
    let body = json!({"error": {"message": "Request not found", "type": "request_not_found", "code": "request_not_found", "param": null}});
    Told::json(StatusCode::NOT_FOUND, &body)
}

/// A job was cancelled, or what came of it dropped.
pub fn cancelled(name: &Name) -> Told {
    Told::json(StatusCode::OK, &json!({"request_id": &*name.id, "status": "cancelled", "was": name.state.as_str()}))
}

/// Jobs with their places in the line, and how many there are in all.
pub fn list(jobs: &[(Name, usize)], counts: [usize; 4]) -> Told {
    let data: Vec<_> = jobs
        .iter()
        .map(|(name, position)| {
            json!({"request_id": &*name.id, "status": name.state.as_str(), "timestamp": name.timestamp(), "queue_position": position})
        })
        .collect();
    let [pending, processing, completed, error] = counts;
    let counts = json!({"pending": pending, "processing": processing, "completed": completed, "error": error});
    Told::json(StatusCode::OK, &json!({"object": "list", "data": data, "counts": counts}))
}
