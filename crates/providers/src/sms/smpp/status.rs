//! What the `command_status` of an answer means (SMPP 3.4, 5.1.3).

use std::time::Duration;

use crate::{Class, SendError, wire::RETRY};

/// A `deliver_sm` was taken.
pub const OK: u32 = 0x0000_0000;
/// We know no such command.
pub const INVALID_COMMAND: u32 = 0x0000_0003;
/// A `deliver_sm` could not be taken now, and is to be sent again.
pub const TRY_AGAIN: u32 = 0x0000_0064;

/// How long to leave a message centre alone that says it is too much.
const PAUSE: Class = Class::RateLimited { after: Some(Duration::from_secs(1)) };

struct Status {
    status: u32,
    name: &'static str,
    class: Class,
    ours: &'static str,
}

const fn at(status: u32, name: &'static str, class: Class, ours: &'static str) -> Status {
    Status { status, name, class, ours }
}

/// We (or the config) said something that the message centre does not take; the next attempt would say the same.
const fn protocol(status: u32, name: &'static str) -> Status {
    at(status, name, Class::Rejected, "protocol_error")
}

const TABLE: &[Status] = &[
    protocol(0x01, "ESME_RINVMSGLEN, invalid message length"),
    protocol(0x02, "ESME_RINVCMDLEN, invalid command length"),
    protocol(0x03, "ESME_RINVCMDID, invalid command"),
    at(0x04, "ESME_RINVBNDSTS, incorrect bind status", RETRY, "not_bound"),
    at(0x05, "ESME_RALYBND, already bound", RETRY, "already_bound"),
    protocol(0x06, "ESME_RINVPRTFLG, invalid priority"),
    protocol(0x07, "ESME_RINVREGDLVFLG, invalid registered delivery"),
    at(0x08, "ESME_RSYSERR, system error", RETRY, "provider_error"),
    at(0x0a, "ESME_RINVSRCADR, invalid source address", Class::Rejected, "invalid_sender"),
    at(0x0b, "ESME_RINVDSTADR, invalid destination address", Class::Rejected, "invalid_recipient"),
    protocol(0x0c, "ESME_RINVMSGID, invalid message id"),
    at(0x0d, "ESME_RBINDFAIL, bind failed", Class::Credentials, "invalid_credentials"),
    at(0x0e, "ESME_RINVPASWD, invalid password", Class::Credentials, "invalid_credentials"),
    at(0x0f, "ESME_RINVSYSID, invalid system id", Class::Credentials, "invalid_credentials"),
    at(0x14, "ESME_RMSGQFUL, message queue full", PAUSE, "queue_full"),
    protocol(0x15, "ESME_RINVSERTYP, invalid service type"),
    protocol(0x33, "ESME_RINVNUMDESTS, invalid number of destinations"),
    protocol(0x34, "ESME_RINVDLNAME, invalid distribution list"),
    protocol(0x40, "ESME_RINVDESTFLAG, invalid destination flag"),
    protocol(0x42, "ESME_RINVSUBREP, invalid replacement"),
    protocol(0x43, "ESME_RINVESMCLASS, invalid esm_class"),
    protocol(0x44, "ESME_RCNTSUBDL, cannot submit to a distribution list"),
    at(0x45, "ESME_RSUBMITFAIL, submit failed", RETRY, "submit_failed"),
    at(0x48, "ESME_RINVSRCTON, invalid source TON", Class::Rejected, "invalid_sender"),
    at(0x49, "ESME_RINVSRCNPI, invalid source NPI", Class::Rejected, "invalid_sender"),
    protocol(0x50, "ESME_RINVDSTTON, invalid destination TON"),
    protocol(0x51, "ESME_RINVDSTNPI, invalid destination NPI"),
    at(0x53, "ESME_RINVSYSTYP, invalid system type", Class::Credentials, "invalid_system_type"),
    protocol(0x54, "ESME_RINVREPFLAG, invalid replacement flag"),
    protocol(0x55, "ESME_RINVNUMMSGS, invalid number of messages"),
    at(0x58, "ESME_RTHROTTLED, throttled", PAUSE, "throttled"),
    protocol(0x61, "ESME_RINVSCHED, invalid schedule"),
    protocol(0x62, "ESME_RINVEXPIRY, invalid validity period"),
    protocol(0x63, "ESME_RINVDFTMSGID, invalid predefined message"),
    at(0x64, "ESME_RX_T_APPN, temporary error", RETRY, "provider_error"),
    at(0x65, "ESME_RX_P_APPN, permanent error", Class::Rejected, "rejected"),
    at(0x66, "ESME_RX_R_APPN, rejected", Class::Rejected, "rejected"),
    protocol(0xc0, "ESME_RINVOPTPARSTREAM, invalid optional parameters"),
    protocol(0xc1, "ESME_ROPTPARNOTALLWD, optional parameter not allowed"),
    protocol(0xc2, "ESME_RINVPARLEN, invalid parameter length"),
    protocol(0xc3, "ESME_RMISSINGOPTPARAM, optional parameter missing"),
    protocol(0xc4, "ESME_RINVOPTPARAMVAL, invalid optional parameter"),
    at(0xfe, "ESME_RDELIVERYFAILURE, delivery failure", Class::Rejected, "undelivered"),
    at(0xff, "ESME_RUNKNOWNERR, unknown error", RETRY, "provider_error"),
];

/// What a refused `submit_sm` means. A status that nobody documents is a refusal for good: sent again it would say the same, and
/// could cost each time.
pub(super) fn of_submit(status: u32) -> SendError {
    match TABLE.iter().find(|known| known.status == status) {
        Some(known) => SendError::new(known.class, known.ours, format!("SMPP 0x{status:02X} ({})", known.name)),
        None => SendError::new(Class::Rejected, format!("smpp_0x{status:X}"), format!("SMPP 0x{status:X}: a code of the provider's own")),
    }
}

/// What a refused bind means. No message is at fault, so none fails for it.
pub(super) fn of_bind(status: u32) -> SendError {
    let error = of_submit(status);
    match (status, error.class) {
        (INVALID_COMMAND, _) => SendError::new(
            Class::Credentials,
            "transceiver_refused",
            "SMPP 0x03: the message centre does not let this account bind as a transceiver, which Raven needs to send and to receive",
        ),
        (_, Class::Rejected) => SendError::new(RETRY, "bind_refused", error.message),
        _ => error,
    }
}
