//! How the service ends: requests that have begun are answered, new connections are not taken.

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Running, question, trained};

#[tokio::test]
async fn a_request_that_has_begun_is_answered_and_then_the_service_ends() {
    let service = Running::start(Some(trained(1))).await;
    let (address, feed) = (service.address, service.feed.clone());
    let body = question("BTC-USDT", [4.5, 3.8, 1.5, 0.008, 25.0]).to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    // The service asks for the body once the handler waits for it.
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    let ended = service.stop();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    ended.await.unwrap().unwrap();
    assert_eq!(feed.statistics().total.count, 1);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_end_up() {
    let service = Running::start(None).await;
    let silent = TcpStream::connect(service.address).await.unwrap();
    assert_eq!(service.get("/livez").await.status(), StatusCode::OK);
    service.stop().await.unwrap().unwrap();
    drop(silent);
}
