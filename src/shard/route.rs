//! The calls that a door answers, as lists. A request is looked up in them before anything else is made of it, so what is
//! not listed is not answered; `docs/openapi.json` describes what is.

use hyper::Method;

/// A call: its method, and its path, in which `{name}` stands for any one segment.
pub type Route = (&'static str, &'static str);

/// Why there is no call for a request.
#[derive(PartialEq, Eq, Debug)]
pub enum NoRoute {
    /// No path of the list fits.
    Path,
    /// The path has other methods, as `Allow` names them.
    Method(String),
}

/// Looks a request up; `path` as the segments between the slashes. The first path of the list that fits is the one meant.
///
/// # Errors
/// See [`NoRoute`].
pub fn find(routes: &[Route], method: &Method, path: &[&str]) -> Result<(), NoRoute> {
    let (_, meant) = routes.iter().find(|(_, route)| fits(route, path)).ok_or(NoRoute::Path)?;
    let methods = || routes.iter().filter(|(_, route)| route == meant).map(|(method, _)| *method);
    if methods().any(|found| found == method.as_str()) {
        return Ok(());
    }
    Err(NoRoute::Method(methods().collect::<Vec<_>>().join(", ")))
}

fn fits(route: &str, path: &[&str]) -> bool {
    let mut segments = path.iter();
    let each_fits = route.trim_start_matches('/').split('/').all(|part| {
        let is_any = part.starts_with('{');
        segments.next().is_some_and(|segment| is_any || part == *segment)
    });
    each_fits && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_path_that_fits() {
        let routes: &[Route] = &[
            ("POST", "/a"),
            ("GET", "/a/b"),
            ("POST", "/a/{x}"),
            ("PUT", "/a/{x}"),
            ("GET", "/{x}/b"),
            ("GET", "/{x}/c"),
        ];
        let check = |method: Method, path: &str, expected: Result<(), NoRoute>| {
            let segments: Vec<&str> = path.split('/').collect();
            assert_eq!(find(routes, &method, &segments), expected, "{method} {path}");
        };
        let other = |allow: &str| Err(NoRoute::Method(allow.to_owned()));
        check(Method::POST, "a", Ok(()));
        check(Method::GET, "a", other("POST"));
        check(Method::GET, "a/b", Ok(()));
        check(Method::POST, "a/b", other("GET"));
        check(Method::PUT, "a/d", Ok(()));
        check(Method::GET, "a/c", other("POST, PUT"));
        check(Method::GET, "d/c", Ok(()));
        for path in ["", "d", "a/b/c", "d/d"] {
            check(Method::GET, path, Err(NoRoute::Path));
        }
    }
}
