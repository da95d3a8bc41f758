//! A request on the wire, by hand: what no command does.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use cairn_proto::{
    frame::{FIXED_LEN, FixedHeader, FrameType, flags},
    op, pb,
    status::Status,
};
use prost::Message;

fn send(stream: &mut TcpStream, frame: FixedHeader, message: &impl Message) {
    let bytes = message.encode_to_vec();
    stream.write_all(&frame.seal(&bytes)).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn receive(stream: &mut TcpStream) -> (FixedHeader, Vec<u8>) {
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).unwrap();
    let frame = FixedHeader::decode(&fixed).unwrap();
    let mut message = vec![0; frame.header_len as usize];
    stream.read_exact(&mut message).unwrap();
    frame.check(&message).unwrap();
    let mut body = vec![0; frame.body_len as usize];
    stream.read_exact(&mut body).unwrap();
    (frame, message)
}

/// Asks the server at this port, on a connection of its own.
pub fn ask(port: u16, kind: pb::request::Kind) -> Result<pb::response::Kind, Status> {
    ask_as(port, None, kind)
}

/// As [`ask`], with an operation id.
pub fn ask_as(port: u16, op_id: Option<pb::OpId>, kind: pb::request::Kind) -> Result<pb::response::Kind, Status> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let hello = pb::Hello {
        proto_min: 1,
        proto_max: 1,
        boot_id: vec![7; 16].into(),
        max_frame: 1 << 20,
        idle_timeout_ms: 60_000,
        role: pb::Role::Client as i32,
        ..Default::default()
    };
    send(&mut stream, FixedHeader::new(FrameType::Hello, 0, 0), &hello);
    assert_eq!(receive(&mut stream).0.frame_type, FrameType::HelloAck);
    let mut frame = FixedHeader::new(FrameType::Request, 1, op::of(&kind));
    frame.flags = flags::END;
    send(&mut stream, frame, &pb::Request { op_id, kind: Some(kind), ..Default::default() });
    loop {
        let (frame, message) = receive(&mut stream);
        if frame.frame_type == FrameType::Response {
            let response = pb::Response::decode(&message[..]).unwrap();
            return match response.error {
                Some(error) => Err(Status::from_pb(error)),
                None => Ok(response.kind.unwrap()),
            };
        }
    }
}

/// Deletes blocks on one store, as the collector would, in a group at its present epoch.
pub fn delete(port: u16, (store, pg, pg_epoch): (u32, u32, u64), run: pb::Run) -> u32 {
    // Higher than any that was seen: this node obeys no collector afterwards.
    let duty_epoch = 1 << 40;
    let delete = pb::DeleteBlocks { store, duty_epoch, pg, pg_epoch, runs: vec![run] };
    match ask(port, pb::request::Kind::Delete(delete)).unwrap() {
        pb::response::Kind::Delete(reply) => reply.deleted,
        other => panic!("{other:?}"),
    }
}
