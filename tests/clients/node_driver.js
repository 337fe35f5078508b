// A device or gateway on the vendor's own Node SDK, told what to do by JSON lines on stdin; it says what it sees by JSON lines on stdout.
// Runs in a folder of its own (`make clients`). Nothing of Hearthline is used here.
//
//   {"new": {"kind": "device", "config": {...}}}       answered {"returned": 0}; then events connect, message, close...
//   {"call": "postProps", "args": [{...}]}             its callback comes as an event of the same name
//   {"service": "Blink", "type": "async", "answer": {"code": 200, "data": {}}}
//   {"sub": {"config": {...}}}                         a gateway's login of a sub-device; "of" names it in later calls
//   {"register": {...}}                                registration by HTTP
'use strict';

const readline = require('readline');
const { createRequire } = require('module');
const iot = createRequire(process.cwd() + '/package.json')('alibabacloud-iot-device-sdk');

let thing = null;
const subs = {};

function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function plain(value) {
  return Buffer.isBuffer(value) ? value.toString() : value;
}

function listen(one, prefix) {
  for (const name of ['connect', 'error', 'close', 'reconnect', 'offline', 'message']) {
    one.on(name, (...args) => say({ event: prefix + name, args: name === 'message' ? args.slice(0, 2).map(plain) : [String(args[0] || '')] }));
  }
  one.onProps((message) => say({ event: prefix + 'onProps', args: [message] }));
  one.onShadow((message) => say({ event: prefix + 'onShadow', args: [message] }));
  one.onConfig((message) => say({ event: prefix + 'onConfig', args: [message] }));
}

function act(line) {
  if (line.new) {
    thing = line.new.kind === 'gateway' ? iot.gateway(line.new.config) : iot.device(line.new.config);
    listen(thing, '');
    return 0;
  }
  if (line.register) {
    iot.register(line.register, (answer) => say({ event: 'register', args: [answer] }));
    return 0;
  }
  if (line.sub) {
    const name = line.sub.config.deviceName;
    subs[name] = thing.login(line.sub.config, (answer) => say({ event: 'login', args: [name, answer] }));
    listen(subs[name], name + '.');
    return 0;
  }
  const one = line.of ? subs[line.of] : thing;
  const prefix = line.of ? line.of + '.' : '';
  if (line.service) {
    one.onService(line.service, (message, reply) => {
      say({ event: prefix + 'onService', args: [line.service, message] });
      reply({ id: message.id, code: line.answer.code, data: line.answer.data }, line.type);
    });
    return 0;
  }
  const silent = ['publish', 'subscribe', 'getShadow', 'postShadow', 'deleteShadow', 'end'];
  const done = (...args) => say({ event: prefix + line.call, args: args.map(plain) });
  one[line.call](...line.args, ...(silent.includes(line.call) ? [] : [done]));
  return 0;
}

readline.createInterface({ input: process.stdin }).on('line', (text) => {
  try {
    say({ returned: act(JSON.parse(text)) });
  } catch (error) {
    say({ raised: String(error) });
  }
});
