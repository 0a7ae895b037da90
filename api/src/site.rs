//! Pages of other sites: one that a browser shows can change nothing here, and read nothing where no key is asked for.
//!
//! A browser says which page a request comes from. What it cannot see is a page whose name was given the address of
//! this machine after it was loaded (DNS rebinding): that one looks like a page of this service. It is known by the name
//! that it asks for. Programs say nothing about pages, and are never refused for it.

use std::net::IpAddr;

use poem::{
    Request,
    http::{StatusCode, header},
};

use crate::problem::Problem;

/// Refuses what a page of another site sends through a browser.
///
/// # Errors
/// A problem with status 403.
pub fn refuse_other_sites(request: &Request) -> Result<(), Problem> {
    if is_of_another_site(request) {
        let detail = "this request comes from a page of another site; send it from a program, or from a page of this \
                      service";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// Refuses a request to a loopback address by a name that may be another machine's.
///
/// # Errors
/// A problem with status 403.
pub fn refuse_other_names(request: &Request) -> Result<(), Problem> {
    let local = request.local_addr().as_socket_addr();
    if local.is_some_and(|address| address.ip().is_loopback())
        && text(request, header::HOST.as_str()).is_some_and(|host| !is_of_this_machine(host))
    {
        let detail = "without API keys this service is asked by an IP address or as localhost, so that no page of another \
                      site can give its name to this machine; set http.require_keys = true to use another name";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// Whether a browser says that a page of another site sends this. Programs say nothing.
fn is_of_another_site(request: &Request) -> bool {
    if let Some(site) = text(request, "sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text(request, header::ORIGIN.as_str()) else { return false };
    origin.split_once("://").map(|(_, host)| host) != text(request, header::HOST.as_str())
}

/// Whether the header `Host` has an address, or a name that stands for this machine everywhere (RFC 6761, 6.3).
fn is_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

fn text<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("127.0.0.1:8000", true)]
    #[case("127.0.0.1", true)]
    #[case("[::1]:8000", true)]
    #[case("[::1]", true)]
    #[case("localhost:8000", true)]
    #[case("LocalHost", true)]
    #[case("sentinel.localhost:8000", true)]
    #[case("rebound.example:8000", false)]
    #[case("localhost.example", false)]
    #[case("notlocalhost", false)]
    #[case("127.0.0.1.example", false)]
    #[case("", false)]
    fn a_name_of_this_machine_is_an_address_or_localhost(#[case] host: &str, #[case] expected: bool) {
        assert_eq!(is_of_this_machine(host), expected);
    }
}
