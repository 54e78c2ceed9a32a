//! The API over TLS: commands trust the server's certificate and no other, and what speaks no TLS gets
//! nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use crate::support::{Home, PATIENCE, text};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn configure(home: &Home, certificate: &Path, key: &Path) {
    home.configure(&format!(
        "[plugin]\nenabled = []\n[http]\ntls_cert = {certificate:?}\ntls_key = {key:?}\nhosts = [\"axwatch.example\"]\n"
    ));
}

#[test]
fn commands_reach_a_server_with_a_certificate_and_no_other() {
    let home = Home::new("tls");
    configure(&home, &data("tls_cert.pem"), &data("tls_key.pem"));
    let server = home.serve();
    assert!(text(&server.greeting, "http").starts_with("https://127.0.0.1:"));
    assert_eq!(home.object(&["as", "X is seen"])["fires"], 0);
    assert_eq!(home.json(&["ax", "is seen"]).len(), 1);

    // Plain text gets no answer, and keeps nobody from having one.
    let mut plain = TcpStream::connect(server.address()).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /api/v1/server HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(home.json(&["ax", "is seen"]).len(), 1);

    // Whoever took the server's place would have another certificate.
    let runtime = home.store().with_extension("db.run.json");
    let said = fs::read_to_string(&runtime).unwrap();
    let (before, digest) = said.split_once("\"certificate\":\"").unwrap();
    let other = if digest.starts_with('0') { "1" } else { "0" };
    fs::write(&runtime, format!("{before}\"certificate\":\"{other}{}", &digest[1..])).unwrap();
    home.run(&["ax", "is seen"]).expect(1).says(&["does not answer"]);
    fs::write(&runtime, said).unwrap();
    server.stop();
}

#[test]
fn a_certificate_that_cannot_be_used_is_told() {
    let home = Home::new("tls-bad");
    configure(&home, &data("tls_key.pem"), &data("tls_key.pem"));
    home.serve_in_vain().expect(2).says(&["http.tls_cert", "no certificate"]);
    configure(&home, &data("tls_cert.pem"), &data("tls_cert.pem"));
    home.serve_in_vain().expect(2).says(&["http.tls_key"]);
    configure(&home, &data("absent.pem"), &data("tls_key.pem"));
    home.serve_in_vain().expect(2).says(&["absent.pem"]);
}
