//! Jobs as clients see them [S004-09..11].

use super::record::{JobError, Name, Record, State};
use crate::api::query::parameter;
use crate::proxy::context::LocalResponse;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::io;

/// Jobs in one answer at most, and without `limit`.
pub(crate) const MOST_LISTED: usize = 1000;

/// A job without its request and response; missing members are left out.
#[derive(Serialize)]
struct View<'a> {
    request_id: &'a str,
    status: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
    timestamp: u64,
    queue_position: usize,
    active_requests: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<serde_json::Value>,
}

/// A whole job, built in the buffer of its file, which may be long.
pub(crate) fn job(name: &Name, mut file: Vec<u8>, position: usize, active: usize) -> io::Result<LocalResponse> {
    let (record, bodies) = Record::read(&file)?;
    let place = |raw: &RawValue| {
        let start = raw.get().as_ptr() as usize - file.as_ptr() as usize;
        start..start + raw.get().len()
    };
    let request = place(bodies.request);
    let response = bodies.response.filter(|_| name.state == State::Completed).map(place);
    // On a full disk the end of a job is known but not written.
    let lost = || JobError {
        message: "The end of this job could not be stored; the log has the details.".into(),
        kind: "storage_error".into(),
        attempts: 0,
    };
    let error = (name.state == State::Error).then(|| record.error.unwrap_or_else(lost));
    let webhook = record.webhook.as_ref().map(|url| match &record.delivery {
        Some(delivery) => {
            json!({"url": url, "status": delivery.status, "attempts": delivery.attempts, "error": delivery.error})
        }
        None => json!({"url": url, "status": "pending"}),
    });
    let view = View {
        request_id: &name.id,
        status: name.state,
        error,
        timestamp: name.timestamp(),
        queue_position: position,
        active_requests: active,
        webhook,
    };
    let mut head = serde_json::to_string(&view)?;
    head.pop();
    // Request and response are adjacent in the buffer, and are not copied.
    let (first, span) = match response {
        None => ("request", request),
        Some(response) if response.start < request.start => ("response", response.start..request.end),
        Some(response) => ("request", request.start..response.end),
    };
    head += &format!(",\"{first}\":");
    file.truncate(span.end);
    file.splice(..span.start, head.bytes());
    file.push(b'}');
    Ok(LocalResponse { body: file, ..LocalResponse::json(StatusCode::OK, &json!({})) })
}

/// The file cannot be read at the moment.
pub(crate) fn unreadable() -> LocalResponse {
    let error = json!({"message": "The job cannot be read at the moment; ask again.", "type": "storage_error"});
    let mut response = LocalResponse::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error }));
    response.fields.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
    response
}

/// No such job, or another owner's [S004-11].
pub(crate) fn not_found() -> LocalResponse {
    let body = json!({"error": {"message": "Request not found", "type": "request_not_found", "code": "request_not_found", "param": null}});
    LocalResponse::json(StatusCode::NOT_FOUND, &body)
}

/// A job was cancelled or removed.
pub(crate) fn cancelled(name: &Name) -> LocalResponse {
    LocalResponse::json(
        StatusCode::OK,
        &json!({"request_id": &*name.id, "status": "cancelled", "was": name.state.as_str()}),
    )
}

/// The page of a list: `limit` jobs that came before `after`.
pub(crate) struct Page<'a> {
    pub(crate) limit: usize,
    pub(crate) after: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// From a query, as in OpenAI's lists; a `limit` that is no number is ignored.
    pub(crate) fn of(query: &'a str) -> Self {
        let limit = parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(MOST_LISTED);
        Self { limit: limit.clamp(1, MOST_LISTED), after: parameter(query, "after") }
    }
}

/// Jobs with their positions in the queue, whether there are more, and the counts of all.
pub(crate) fn list(jobs: &[(usize, Name)], has_more: bool, counts: [usize; 4]) -> LocalResponse {
    let data: Vec<_> = jobs
        .iter()
        .map(|(position, name)| {
            json!({"request_id": &*name.id, "status": name.state.as_str(), "timestamp": name.timestamp(), "queue_position": position})
        })
        .collect();
    let [pending, processing, completed, error] = counts;
    let counts = json!({"pending": pending, "processing": processing, "completed": completed, "error": error});
    let body = json!({"object": "list", "data": data, "has_more": has_more, "counts": counts});
    LocalResponse::json(StatusCode::OK, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_from_its_file_whatever_stands_first_there() {
        let name = Name::parse("01932f0a1b2c0003.abc.00000000.completed.9").expect("a name");
        let (about, request, response) = (
            r#""version":1,"id":"abc","owner":null,"group":null,"path":"/","webhook":null"#,
            r#""request":{"n": 1e400}"#,
            r#""response":[ 1.0 ]"#,
        );
        for file in [[about, request, response], [response, request, about], [request, response, about]] {
            let shown = job(&name, format!("{{{}}}", file.join(",")).into_bytes(), 0, 3).expect("a job");
            let text = String::from_utf8(shown.body).expect("text");
            assert!(
                text.contains(request) && text.contains(response) && text.contains(r#""active_requests":3"#),
                "{text}"
            );
            assert!(
                text.starts_with(r#"{"request_id":"abc","status":"completed","#) && !text.contains("version"),
                "{text}"
            );
            let waiting =
                job(&name.to(State::Pending, 0), format!("{{{}}}", file.join(",")).into_bytes(), 1, 3).expect("a job");
            let value: serde_json::Value =
                serde_json::from_str(&String::from_utf8(waiting.body).expect("text").replace("1e400", "1"))
                    .expect("JSON");
            assert_eq!((value.get("response"), &value["request"]["n"]), (None, &json!(1)));
        }
        assert!(job(&name, b"{ half".to_vec(), 0, 0).is_err());
    }
}
