//! temp
fn main() {
    let _ = llmproxy::observe::logger::install(&llmproxy::config::Log::default());
    let demo = llmproxy::demo::start().expect("demo");
    let mut config = llmproxy::demo::config(&demo);
    config.server.port = 18080;
    let running = llmproxy::app::start(config).expect("start");
    println!("listening on {}", running.addr());
    println!("{}", llmproxy::demo::banner(running.addr(), &demo));
    let signals = llmproxy::base::signals::listen().expect("signals");
    while let Ok(s) = signals.recv() {
        if s == llmproxy::base::signals::Signal::Stop {
            break;
        }
    }
    running.stop();
}
