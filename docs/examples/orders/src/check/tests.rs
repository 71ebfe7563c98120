use super::*;
use crate::database;

/// A database with these orders and a position in each of their streams.
fn holding(orders: &[(&str, u64, &str)]) -> Connection {
    let database = Connection::open_in_memory().unwrap();
    database::make_tables(&database).unwrap();
    for (stream, offset, body) in orders {
        let order = (stream, offset, body.as_bytes());
        database.execute("INSERT INTO orders VALUES (?1, ?2, ?3)", order).unwrap();
        let position = "INSERT INTO positions VALUES (?1, 1, 2, 9) ON CONFLICT DO NOTHING";
        database.execute(position, [stream]).unwrap();
    }
    database
}

fn told(stream: &str, orders: u64, first: u64, last: u64) -> Value {
    json!({
        "stream": stream, "orders": orders, "first_offset": first, "last_offset": last,
        "position": { "stream_id": 1, "epoch": 2, "offset": 9 },
    })
}

#[test]
fn an_empty_table_lacks_nothing() {
    let expected = json!({
        "orders": 0, "distinct": 0, "gapless": true, "numbered": 0, "in_sequence": true,
        "streams": [],
    });
    assert_eq!(check(&mut holding(&[])), Ok(expected));
}

#[test]
fn a_stream_without_orders_is_told_with_its_position() {
    let mut database = holding(&[]);
    database.execute("INSERT INTO positions VALUES ('a', 1, 2, 9)", []).unwrap();
    let told = check(&mut database).unwrap();
    assert_eq!(told["gapless"], true);
    assert_eq!(
        told["streams"],
        json!([{
            "stream": "a", "orders": 0, "first_offset": null, "last_offset": null,
            "position": { "stream_id": 1, "epoch": 2, "offset": 9 },
        }])
    );
}

#[test]
fn a_gap_is_seen_in_each_stream() {
    let mut database = holding(&[("a", 7, "tea"), ("a", 8, "milk"), ("b", 0, "tea")]);
    let whole = json!({
        "orders": 3, "distinct": 3, "gapless": true, "numbered": 0, "in_sequence": true,
        "streams": [told("a", 2, 7, 8), told("b", 1, 0, 0)],
    });
    assert_eq!(check(&mut database), Ok(whole));
    database.execute("INSERT INTO orders VALUES ('b', 2, X'00')", []).unwrap();
    let told = check(&mut database).unwrap();
    assert_eq!((&told["gapless"], &told["orders"]), (&json!(false), &json!(4)));
}

#[test]
fn a_repetition_is_seen() {
    let told = check(&mut holding(&[("a", 0, "tea"), ("a", 1, "tea")])).unwrap();
    assert_eq!((&told["orders"], &told["distinct"]), (&json!(2), &json!(1)));
}

#[test]
fn numbers_are_of_a_producer_and_a_stream() {
    let [zero, one, two] =
        [0, 1, 2].map(|number| json!({ "producer": "till", "number": number }).to_string());
    let other = json!({ "producer": "desk", "number": 0 }).to_string();
    let judged = |orders: &[(&str, u64, &str)]| {
        let told = check(&mut holding(orders)).unwrap();
        (told["numbered"].as_u64().unwrap(), told["in_sequence"].as_bool().unwrap())
    };
    let between = [("a", 0, &zero[..]), ("a", 1, "tea"), ("a", 2, &other), ("a", 3, &one)];
    assert_eq!(judged(&between), (3, true));
    assert_eq!(judged(&[("a", 0, &zero), ("b", 0, &zero)]), (2, true));
    assert_eq!(judged(&[("a", 0, &zero), ("a", 1, &two)]), (2, false), "one is lost");
    assert_eq!(judged(&[("a", 0, &one), ("a", 1, &two)]), (2, false), "the first is lost");
    assert_eq!(judged(&[("a", 0, &zero), ("a", 1, &zero)]), (2, false), "one is there twice");
    assert_eq!(judged(&[("a", 0, &one), ("a", 1, &zero)]), (2, false), "out of order");
}

#[test]
fn a_database_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    assert!(database::open_existing(&path).is_err());
    database::open(&path).unwrap();
    assert!(database::open_existing(&path).is_ok());
}
