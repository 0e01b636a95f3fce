// What an ordinary client does, with mqtt.js: mqttjs.js HOST PORT. A line per case.
const mqtt = require('mqtt');
const [host, port] = process.argv.slice(2);
const WAIT = 200000;

const within = (p, what) => Promise.race([p, new Promise((_, no) => setTimeout(() => no(new Error('not in time: ' + what)), WAIT).unref())]);
const must = (ok, what) => { if (!ok) throw new Error(what); };

// client connects; what comes is taken with take().
async function client(version, clientId, options = {}) {
  const c = mqtt.connect({host, port: +port, protocolVersion: version, clientId, clean: true, reconnectPeriod: 0, ...options});
  const got = [], waiting = [];
  c.on('message', (topic, payload, packet) => { const m = {topic, payload, packet}; waiting.length ? waiting.shift()(m) : got.push(m); });
  c.on('error', () => {});
  const connack = await within(new Promise((yes, no) => { c.once('connect', yes); c.once('error', no); c.once('close', () => no(new Error('closed'))); }), 'connect');
  return {
    c, connack, got,
    take: () => within(got.length ? Promise.resolve(got.shift()) : new Promise((yes) => waiting.push(yes)), 'message'),
    publish: (t, p, o = {}) => within(new Promise((yes, no) => c.publish(t, p, o, (e) => (e ? no(e) : yes()))), 'publish'),
    subscribe: (t, o) => within(new Promise((yes, no) => c.subscribe(t, o, (e, granted) => (e ? no(e) : yes(granted)))), 'subscribe'),
    end: () => within(new Promise((yes) => c.end(false, {}, yes)), 'end'),
    crash: () => within(new Promise((yes) => { c.once('close', yes); c.stream.destroy(); }), 'crash'),
  };
}

const cases = {
  async qosBothWays(v) {
    const sub = await client(v, 'sub'), pub = await client(v, 'pub');
    for (const qos of [0, 1, 2]) {
      await sub.subscribe('q/' + qos, {qos});
      for (let i = 0; i < 20; i++) await pub.publish('q/' + qos, String(i), {qos});
      for (let i = 0; i < 20; i++) {
        const m = await sub.take();
        must(String(m.payload) === String(i) && m.packet.qos === qos, `message ${i} of QoS ${qos}: ${m.payload} ${m.packet.qos}`);
      }
    }
    await sub.end(); await pub.end();
  },
  async resume(v) {
    const keep = {clean: false, ...(v === 5 ? {properties: {sessionExpiryInterval: 100}} : {})};
    let sub = await client(v, 'resumer', keep);
    const pub = await client(v, 'pub');
    await sub.subscribe('r/#', {qos: 2});
    await sub.crash();
    for (let i = 0; i < 30; i++) await pub.publish('r/a', String(i), {qos: 1 + i % 2});
    sub = await client(v, 'resumer', keep);
    must(sub.connack.sessionPresent, 'no session');
    const next = {1: 0, 2: 1}; // the client hands on a QoS 2 message at its PUBREL: in order per QoS
    for (let i = 0; i < 30; i++) {
      const m = await sub.take();
      must(String(m.payload) === String(next[m.packet.qos]), `${m.payload} instead of ${next[m.packet.qos]}`);
      next[m.packet.qos] += 2;
    }
    await sub.end(); await pub.end();
    await (await client(v, 'resumer')).end();
  },
  async retained(v) {
    const pub = await client(v, 'pub'), sub = await client(v, 'sub');
    await pub.publish('keep/a', 'kept', {qos: 1, retain: true});
    await sub.subscribe('keep/#', {qos: 1});
    const m = await sub.take();
    must(String(m.payload) === 'kept' && m.packet.retain, 'not the retained one');
    await pub.publish('keep/a', '', {qos: 1, retain: true});
    await sub.take();
    await sub.end(); await pub.end();
  },
  async will(v) {
    const sub = await client(v, 'sub');
    await sub.subscribe('will/#', {qos: 2});
    for (const qos of [0, 1, 2]) {
      await (await client(v, 'mortal', {will: {topic: 'will/x', payload: 'gone ' + qos, qos, retain: false}})).crash();
      const m = await sub.take();
      must(String(m.payload) === 'gone ' + qos && m.packet.qos === qos, 'will of QoS ' + qos);
    }
    await sub.end();
  },
  async large(v) {
    const sub = await client(v, 'sub'), pub = await client(v, 'pub');
    await sub.subscribe('large', {qos: 1});
    const payload = Buffer.alloc(1000000, 'holdfast');
    await pub.publish('large', payload, {qos: 2});
    must(payload.equals((await sub.take()).payload), 'other bytes');
    await sub.end(); await pub.end();
  },
  async shared(v) {
    const one = await client(v, 'one'), two = await client(v, 'two'), pub = await client(v, 'pub');
    await one.subscribe('$share/g/job', {qos: 1}); await two.subscribe('$share/g/job', {qos: 1});
    for (let i = 0; i < 40; i++) await pub.publish('job', String(i), {qos: 1});
    const end = Date.now() + WAIT;
    while (one.got.length + two.got.length < 40 && Date.now() < end) await new Promise((yes) => setTimeout(yes, 10));
    must(new Set([...one.got, ...two.got].map((m) => String(m.payload))).size === 40 && one.got.length + two.got.length === 40, 'each message once');
    for (const c of [one, two, pub]) await c.end();
  },
};

const cases5 = {
  async properties(v) {
    const sub = await client(v, 'sub'), pub = await client(v, 'pub');
    must(pub.connack.properties.receiveMaximum && pub.connack.properties.topicAliasMaximum, 'CONNACK says no limits');
    await sub.subscribe('p/+', {qos: 2, properties: {subscriptionIdentifier: 77}});
    const properties = {userProperties: {a: ['1', '2'], b: 'ä'}, contentType: 'text/plain', responseTopic: 'answer/here',
      correlationData: Buffer.from([0, 1]), payloadFormatIndicator: true, messageExpiryInterval: 600};
    for (const qos of [0, 1, 2]) {
      await pub.publish('p/x', 'all', {qos, properties});
      const q = (await sub.take()).packet.properties;
      must(JSON.stringify(q.userProperties) === JSON.stringify(properties.userProperties) && q.contentType === 'text/plain' &&
        q.responseTopic === 'answer/here' && q.correlationData.equals(properties.correlationData) && q.payloadFormatIndicator === true &&
        q.messageExpiryInterval > 300 && q.subscriptionIdentifier == 77, JSON.stringify(q));
    }
    await pub.publish('p/alias', 'first', {qos: 1, properties: {topicAlias: 3}});
    await pub.publish('', 'second', {qos: 1, properties: {topicAlias: 3}});
    must((await sub.take()).topic === 'p/alias' && (await sub.take()).topic === 'p/alias', 'alias');
    await sub.end(); await pub.end();
  },
  async expiry(v) {
    let sub = await client(v, 'exp', {clean: false, properties: {sessionExpiryInterval: 100}, will: {topic: 'exp/gone', payload: '', qos: 1, retain: false}});
    const pub = await client(v, 'pub');
    await pub.subscribe('exp/gone', {qos: 1});
    await sub.subscribe('e', {qos: 1});
    await sub.crash();
    await pub.take(); // the broker knows: what it had begun to deliver would not expire (3.3.2.3.3)
    await pub.publish('e', 'short', {qos: 1, properties: {messageExpiryInterval: 1}});
    await pub.publish('e', 'long', {qos: 1, properties: {messageExpiryInterval: 100}});
    await new Promise((yes) => setTimeout(yes, 1500)); // the interval is what is tested
    sub = await client(v, 'exp', {clean: false});
    must(String((await sub.take()).payload) === 'long', 'an expired message');
    await sub.end(); await pub.end();
  },
  async receiveMaximum(v) {
    const sub = await client(v, 'narrow', {properties: {receiveMaximum: 1}}), pub = await client(v, 'pub');
    await sub.subscribe('n', {qos: 2});
    for (let i = 0; i < 50; i++) await pub.publish('n', String(i), {qos: 1 + i % 2});
    for (let i = 0; i < 50; i++) must(String((await sub.take()).payload) === String(i), 'message ' + i);
    await sub.end(); await pub.end();
  },
  async takeover(v) {
    const old = await client(v, 'twice');
    const told = within(new Promise((yes) => old.c.once('disconnect', yes)), 'DISCONNECT');
    const now = await client(v, 'twice');
    must((await told).reasonCode === 0x8E, 'another reason');
    await now.end();
  },
};

(async () => {
  console.log('mqtt.js', require('mqtt/package.json').version);
  let failed = 0;
  for (const [version, list] of [[4, cases], [5, {...cases, ...cases5}]]) {
    for (const [name, run] of Object.entries(list)) {
      try {
        await run(version);
        console.log('ok', name, version);
      } catch (e) {
        failed++;
        console.log('FAIL', name, version, e.message);
      }
    }
  }
  process.exit(failed ? 1 : 0);
})();
