use super::fixture::{Stream, run};

#[test]
fn a_sealed_run_opens_as_it_was() {
    let stream = Stream::new(1);
    let batches = run(100, 50, 20_000);
    let sealed = stream.seal(&batches);
    sealed.verify(&stream.identity(), batches).unwrap();
}
