// A real OpenID Connect provider on a free port of this machine, for the tests of single sign-on. Prints
//
//   issuer=<URL> control=<HOST:PORT>
//
// and serves until it is killed. What the control port does:
//
//   GET  /tokens?alg=ES256&audience=raven&login=ada   signs a human in as a browser would, and answers with their tokens:
//                                                     { idToken, accessToken }. The access token is for the audience and
//                                                     signed with the algorithm; the ID token is for the client `raven`.
//   POST /rotate                                      from now on there are only new keys

import { generateKeyPairSync, randomUUID, webcrypto } from 'node:crypto';
import { createServer } from 'node:http';

// The provider expects Node 22, and these two of it. With them it runs on Debian's, too, which is older.
globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);
const { default: Provider } = await import('oidc-provider');

const CLIENT = {
  client_id: 'raven',
  client_secret: 'a secret of tests',
  token_endpoint_auth_method: 'client_secret_post',
  redirect_uris: ['https://app.example/callback'],
  grant_types: ['authorization_code'],
  response_types: ['code'],
};
const RESOURCE = 'urn:tests:';

function freshKeys() {
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    EdDSA: generateKeyPairSync('ed25519'),
  };
  return Object.entries(pairs).map(([alg, { privateKey }]) => ({ ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID() }));
}

function makeProvider(issuer) {
  return new Provider(issuer, {
    clients: [CLIENT],
    jwks: { keys: freshKeys() },
    cookies: { keys: [randomUUID()] },
    scopes: ['openid', 'email', 'api'],
    claims: { openid: ['sub'], email: ['email', 'email_verified'] },
    conformIdTokenClaims: false,
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...addressOf(id) }) }),
    extraTokenClaims: (_ctx, token) => addressOf(token.accountId),
    features: {
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_ctx, resource) {
          const [audience, alg] = resource.slice(RESOURCE.length).split(':');
          return { scope: 'api', audience, accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg } } };
        },
      },
    },
  });
}

function addressOf(id) {
  return { email: `${id}@example.com`, email_verified: true };
}

/** A browser, as far as signing in needs one: it keeps cookies and goes where it is sent. */
class Browser {
  #cookies = new Map();

  /** Makes a request and returns where it leads. */
  async go(url, form) {
    const headers = { cookie: [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ') };
    const answer = await fetch(url, { method: form ? 'POST' : 'GET', headers, body: form && new URLSearchParams(form), redirect: 'manual' });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
      if (value === '') this.#cookies.delete(name);
      else this.#cookies.set(name, value);
    }
    const location = answer.headers.get('location');
    if (!location) throw new Error(`${url} leads nowhere: ${answer.status} ${await answer.text()}`);
    return new URL(location, url).href;
  }
}

async function signIn(issuer, { alg, audience, login }) {
  const browser = new Browser();
  const resource = `${RESOURCE}${audience}:${alg}`;
  const redirect_uri = CLIENT.redirect_uris[0];
  const asked = { client_id: CLIENT.client_id, redirect_uri, response_type: 'code', scope: 'openid email api', resource, nonce: randomUUID() };
  let at = await browser.go(`${issuer}/auth?${new URLSearchParams(asked)}`);
  for (const form of [{ prompt: 'login', login, password: 'any' }, { prompt: 'consent' }]) {
    at = await browser.go(await browser.go(at, form));
  }
  const code = new URL(at).searchParams.get('code');
  if (!code) throw new Error(`no code in ${at}`);
  const { client_id, client_secret } = CLIENT;
  const body = new URLSearchParams({ grant_type: 'authorization_code', code, redirect_uri, resource, client_id, client_secret });
  const answer = await fetch(`${issuer}/token`, { method: 'POST', body });
  const tokens = await answer.json();
  if (!answer.ok) throw new Error(`no tokens: ${JSON.stringify(tokens)}`);
  return { idToken: tokens.id_token, accessToken: tokens.access_token };
}

const listen = (server) => new Promise((listening) => server.listen(0, '127.0.0.1', () => listening(server.address().port)));

let handle;
const issuer = `http://127.0.0.1:${await listen(createServer((request, answer) => handle(request, answer)))}`;
handle = makeProvider(issuer).callback();

const control = createServer(async (request, answer) => {
  const url = new URL(request.url, issuer);
  try {
    let body = {};
    if (url.pathname === '/rotate') handle = makeProvider(issuer).callback();
    else body = await signIn(issuer, Object.fromEntries(url.searchParams));
    answer.end(JSON.stringify(body));
  } catch (error) {
    answer.writeHead(500).end(JSON.stringify({ error: String(error) }));
  }
});
console.log(`issuer=${issuer} control=127.0.0.1:${await listen(control)}`);
