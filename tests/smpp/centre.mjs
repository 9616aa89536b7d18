// A real SMPP message centre on a free port of this machine, for the tests of the adapter: everything that is read and written as SMPP
// is the library's. Prints
//
//   smpp=<PORT> control=<HOST:PORT>
//
// and serves until it is killed. With the paths of a certificate and its key as arguments it speaks TLS. Takes the system id `acme`
// with the password `hushhush`. What the control port does:
//
//   GET  /state            { binds, sessions, submits: [{ from, to, text, encoding, udh, receipt, id, session }], deliveries: [status] }
//   POST /script           { "to": [how, …] }: what becomes of the next messages to somebody, each part counts. how is a number (that
//                          command_status), "silence" (taken and not answered), "drop" (taken, and the connection is cut), or null
//   POST /receipt          { id, state, tlv }: a receipt for a message, by its text or (with tlv) by parameters
//   POST /inbound          { from, to, text, parts }: a message from somebody, whole or in parts
//   POST /drop             cuts all connections
//   POST /password         { password }: another one from now on
//   POST /binds            { most }: how many sessions there may be
// A receipt or an inbound message goes over the session that was bound last; answers { status }, of the answer to the last of its PDUs.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import smpp from 'smpp';

const account = { system_id: 'acme', password: 'hushhush' };
const state = { binds: 0, submits: [], deliveries: [] };
const script = new Map();
const bound = new Set();
let most = 100;
let last = 0;

function serve(session) {
  const { socket } = session;
  session.on('error', () => socket.destroy());
  session.on('close', () => bound.delete(session));
  session.on('bind_transceiver', (pdu) => {
    let status = smpp.ESME_ROK;
    if (pdu.system_id !== account.system_id) status = smpp.ESME_RINVSYSID;
    else if (pdu.password !== account.password) status = smpp.ESME_RINVPASWD;
    else if (bound.size >= most) status = smpp.ESME_RALYBND;
    session.send(pdu.response({ command_status: status, system_id: 'centre' }));
    if (status !== smpp.ESME_ROK) return;
    state.binds += 1;
    session.number = state.binds;
    bound.add(session);
  });
  session.on('enquire_link', (pdu) => session.send(pdu.response()));
  session.on('unbind', (pdu) => {
    bound.delete(session);
    session.send(pdu.response(), () => socket.end());
  });
  session.on('submit_sm', (pdu) => submit(session, pdu));
}

function submit(session, pdu) {
  if (!bound.has(session)) return session.send(pdu.response({ command_status: smpp.ESME_RINVBNDSTS }));
  const how = script.get(pdu.destination_addr)?.shift() ?? null;
  if (typeof how === 'number') return session.send(pdu.response({ command_status: how }));
  last += 1;
  const id = `m${last}`;
  state.submits.push({
    from: pdu.source_addr,
    ton: pdu.source_addr_ton,
    to: pdu.destination_addr,
    text: pdu.short_message.message,
    encoding: pdu.data_coding,
    udh: pdu.short_message.udh ? pdu.short_message.udh.map((part) => part.toString('hex')) : null,
    receipt: pdu.registered_delivery,
    id,
    session: session.number,
  });
  if (how === 'silence') return;
  if (how === 'drop') return session.socket.destroy();
  session.send(pdu.response({ message_id: id }));
}

/** Sends a deliver_sm over the latest session, and waits for what it is answered. */
function deliver(fields) {
  const session = [...bound].pop();
  if (!session) return Promise.resolve(null);
  return new Promise((answered) => {
    session.on('close', () => answered(null));
    session.deliver_sm(fields, (answer) => {
      state.deliveries.push(answer.command_status);
      answered(answer.command_status);
    });
  });
}

function receipt({ id, state: word, tlv }) {
  const { from, to } = state.submits.find((submit) => submit.id === id) ?? { from: 'ACME', to: '254722000000' };
  const addresses = { source_addr: to, source_addr_ton: 1, source_addr_npi: 1, destination_addr: from, esm_class: smpp.ESM_CLASS.MC_DELIVERY_RECEIPT };
  if (tlv) return deliver({ ...addresses, receipted_message_id: id, message_state: smpp.MESSAGE_STATE[word] });
  const text = `id:${id} sub:001 dlvrd:001 submit date:2605011224 done date:2605011225 stat:${word} err:000 text:Hi`;
  return deliver({ ...addresses, short_message: text });
}

async function inbound({ from, to, text, parts }) {
  const addresses = { source_addr: from, source_addr_ton: 1, source_addr_npi: 1, destination_addr: to };
  if (!parts) return deliver({ ...addresses, short_message: text });
  let status = null;
  for (const [n, part] of parts.entries()) {
    const udh = Buffer.from([5, 0, 3, 42, parts.length, n + 1]);
    status = await deliver({ ...addresses, esm_class: smpp.ESM_CLASS.UDH_INDICATOR, short_message: { udh, message: part } });
  }
  return status;
}

const listen = (server) => new Promise((listening) => server.listen(0, '127.0.0.1', () => listening(server.address().port)));

const [certificate, key] = process.argv.slice(2);
const options = certificate ? { cert: readFileSync(certificate), key: readFileSync(key) } : {};
const port = await listen(smpp.createServer(options, serve));

const doors = {
  '/state': () => ({ ...state, sessions: bound.size }),
  '/script': (all) => {
    for (const [to, hows] of Object.entries(all)) script.set(to, hows);
  },
  '/receipt': async (asked) => ({ status: await receipt(asked) }),
  '/inbound': async (asked) => ({ status: await inbound(asked) }),
  '/drop': () => bound.forEach((session) => session.socket.destroy()),
  '/password': ({ password }) => {
    account.password = password;
  },
  '/binds': (asked) => {
    most = asked.most;
  },
};

const control = createServer(async (request, answer) => {
  try {
    let text = '';
    for await (const chunk of request) text += chunk;
    const body = await doors[request.url](text ? JSON.parse(text) : {});
    answer.end(JSON.stringify(body ?? {}));
  } catch (error) {
    answer.writeHead(500).end(JSON.stringify({ error: String(error) }));
  }
});
console.log(`smpp=${port} control=127.0.0.1:${await listen(control)}`);
