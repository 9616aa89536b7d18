//! A client of the server's own API: what quickstart shows, it shows through the front door.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A client with a key.
pub(super) struct Client {
    address: SocketAddr,
    key: String,
}

impl Client {
    pub(super) fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body.to_string().into()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let stream = TcpStream::connect(self.address).await.with_context(|| format!("the server is not reached at {}", self.address))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-raven-key", &self.key)
            .body(Full::new(body))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            drop(sender);
            Ok::<_, hyper::Error>((status, body))
        };
        // The connection moves only while it is polled.
        let (answered, _) = tokio::join!(exchange, connection);
        let (status, body) = answered.with_context(|| format!("{method} {path} was not answered"))?;
        let value: Value = serde_json::from_slice(&body).with_context(|| format!("{method} {path} was answered {status} without JSON"))?;
        if !status.is_success() {
            bail!("{method} {path} was answered {status}: {}", value["message"].as_str().unwrap_or("no message"));
        }
        Ok(value)
    }
}
