//! A real browser, spoken to by the W3C's `WebDriver` protocol over plain HTTP.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Chromium without a screen. Ends with this.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts one. None where there is no `chromedriver`, which is said with the name of the test.
    #[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
    pub(crate) fn start(test: &str) -> Option<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            println!("skipped: {test}: there is no chromedriver");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        // "ChromeDriver was started successfully on port 12345."
        let port = lines.find_map(|line| {
            let line = line.expect("it can be read");
            let (_, port) = line.split_once("successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let port = port.expect("it says where it listens");
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.count());
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser = Self { driver, port, session: String::new(), profile };
        let folder = format!("--user-data-dir={}", browser.profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &folder,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let begun = browser.ask("POST", "/session", &capabilities);
        begun["sessionId"].as_str().expect("it begins").clone_into(&mut browser.session);
        Some(browser)
    }

    /// Opens a file.
    pub(crate) fn open(&self, page: &Path) {
        self.post("/url", &json!({ "url": format!("file://{}", page.display()) }));
    }

    /// What a function's body returns, run in the page.
    pub(crate) fn eval(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the page has written to its console since the last time, warnings and errors.
    pub(crate) fn console(&self) -> Value {
        self.post("/se/log", &json!({ "type": "browser" }))
    }

    /// How the page is looked at: its width and height, light or dark, on a screen or on paper.
    pub(crate) fn look(&self, (width, height): (u32, u32), scheme: &str, media: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "media": media, "features": features }),
        );
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", &screen);
    }

    /// A picture of the whole page, as a PNG in base 64.
    pub(crate) fn picture(&self) -> String {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", &whole);
        picture["data"].as_str().expect("it has data").to_owned()
    }

    /// The page as it is printed, a PDF in base 64.
    pub(crate) fn print(&self) -> String {
        let printed = self.post("/print", &json!({ "background": true }));
        printed.as_str().expect("it is text").to_owned()
    }

    fn devtools(&self, method: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": method, "params": parameters }))
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let body = body.to_string();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .expect("it hears");
        let mut reader = BufReader::new(stream);
        let mut length = None;
        let mut line = String::new();
        while reader.read_line(&mut line).expect("it answers") > 2 {
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
            line.clear();
        }
        let mut answer = vec![0; length.expect("it says how long its answer is")];
        reader.read_exact(&mut answer).expect("it answers");
        let mut answer: Value = serde_json::from_slice(&answer).expect("it answers in JSON");
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {answer:#}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
