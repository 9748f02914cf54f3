//! The admin page: status, routes, a few actions. Its access rules are in `guard`.

mod actions;
mod events;
mod guard;
mod routes;
mod status;

use crate::api::errors::Failure;
use crate::http::head::Head;
use crate::http::request::{From, Request};
use crate::http::response::Response;
use crate::proxy::context::{LocalResponse, RequestContext};
use crate::proxy::job_store::disk_is_busy;
use crate::proxy::state::{AdminHandler, Opened, Proxy};
use crate::reload::ConfigManager;
use crate::routing::snapshot::SnapshotStore;
use crate::util::cancel::CancelToken;
use crate::util::time;
use http::{Method, StatusCode, header};
use serde_json::Value;
use std::sync::Arc;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(crate) struct Admin {
    proxy: Arc<Proxy>,
    shared: Arc<SnapshotStore>,
    manager: Arc<ConfigManager>,
    /// Counts live views: one reference each, and this one.
    viewers: Arc<()>,
    closed: CancelToken,
}

impl Admin {
    /// Serves the page until the result is dropped.
    pub(crate) fn start(manager: &Arc<ConfigManager>) -> Arc<Self> {
        let admin = Arc::new(Self {
            proxy: Arc::clone(&manager.proxy),
            shared: Arc::clone(&manager.shared),
            manager: Arc::clone(manager),
            viewers: Arc::default(),
            closed: CancelToken::default(),
        });
        let handler: Arc<dyn AdminHandler> = Arc::clone(&admin) as _;
        admin.proxy.show(Arc::downgrade(&handler));
        admin
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

impl AdminHandler for Admin {
    fn admit(&self, head: &Head, from: From) -> Result<Opened, Failure> {
        guard::admit(head, from.peer, &self.shared.load(), time::now())
    }

    fn serve(self: Arc<Self>, context: RequestContext, request: Request, response: &mut Response) {
        // Checked again, since a reload may have changed the rules while the body was read.
        let opened = match self.admit(&request.head, request.from) {
            Ok(opened) => opened,
            Err(failure) => return context.refuse(response, &failure),
        };
        let path = request.head.target.canonical().into_owned();
        let rest = path.strip_prefix("/admin").unwrap_or_default().to_owned();
        if !(rest.starts_with("/config") || rest == "/reload") {
            return self.answer(context, request, response, &rest, opened);
        }
        // Disk access is queued, so that a slow disk does not block the control threads.
        let mut response = response.detach();
        let proxy = Arc::clone(&self.proxy);
        proxy.disk.run(Box::new(move |has_room| match has_room {
            true => self.answer(context, request, &mut response, &rest, opened),
            false => context.refuse(&mut response, &disk_is_busy()),
        }));
    }
}

impl Admin {
    fn answer(
        self: &Arc<Self>,
        context: RequestContext,
        request: Request,
        response: &mut Response,
        rest: &str,
        opened: Opened,
    ) {
        let is_read = request.head.method == Method::GET || request.head.method == Method::HEAD;
        let plain = |status, text: &str| LocalResponse { status, body: text.as_bytes().to_vec(), fields: Vec::new() };
        let asset = |kind: &str, text: &str| plain(StatusCode::OK, text).with(header::CONTENT_TYPE, kind);
        let answer = match rest {
            "" | ".html" if is_read => Ok(plain(StatusCode::FOUND, "").with(header::LOCATION, "/admin/")),
            "/" if is_read => Ok(asset("text/html; charset=utf-8", PAGE)),
            "/page.css" if is_read => Ok(asset("text/css; charset=utf-8", STYLE)),
            "/page.js" if is_read => Ok(asset("text/javascript; charset=utf-8", SCRIPT)),
            "/events" if request.head.method == Method::GET => return self.watch(context, request, response),
            "/status" if is_read => Ok(LocalResponse::json(StatusCode::OK, &self.status(&Value::Null))),
            "/config" if is_read => self.routes(&request, opened),
            rest => self.act(&request, rest == "/reload"),
        };
        context.local(response, answer);
    }
}
