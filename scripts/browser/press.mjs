// node --experimental-websocket scripts/browser/press.mjs URL [PICTURE]: opens a page in Chromium, presses its
// button, and writes what stood there before and after as JSON. Exit status 2: there is no browser.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url, picture] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'mailspan-browser-'));
const browser = spawn(process.env.MAILSPAN_TEST_BROWSER ?? 'chromium', [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0', '--window-size=800,600',
  `--user-data-dir=${folder}`, 'about:blank',
], { stdio: ['ignore', 'ignore', 'pipe'] });
browser.on('error', (error) => {
  console.error(`no browser: ${error.message}; install chromium, or set MAILSPAN_TEST_BROWSER`);
  process.exit(2);
});
// A browser that hangs must not hold up the tests.
const deadline = setTimeout(() => end(1, 'the browser did not answer in 60 s'), 60_000);

function end(status, text) {
  clearTimeout(deadline);
  if (text) console.error(text);
  browser.on('exit', () => {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    process.exit(status);
  });
  browser.kill('SIGKILL');
}

async function port() {
  let said = '';
  for await (const part of browser.stderr) {
    said += part;
    const found = said.match(/ws:\/\/127\.0\.0\.1:(\d+)\//);
    if (found) return found[1];
  }
  throw new Error(`the browser ended: ${said}`);
}

async function main() {
  const pages = await (await fetch(`http://127.0.0.1:${await port()}/json/list`)).json();
  const socket = new WebSocket(pages.find((page) => page.type === 'page').webSocketDebuggerUrl);
  await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
  const waiting = new Map();
  let number = 0;
  let loaded = () => {};
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.method === 'Page.loadEventFired') loaded();
    waiting.get(message.id)?.(message);
  };
  const ask = (method, params = {}) => new Promise((done) => {
    waiting.set(++number, done);
    socket.send(JSON.stringify({ id: number, method, params }));
  });
  const loading = () => new Promise((done) => { loaded = done; });
  const look = async () => {
    const expression = '({ title: document.title, lang: document.documentElement.lang, text: document.body.innerText,'
      + ' button: document.querySelector("button")?.innerText ?? null })';
    return (await ask('Runtime.evaluate', { expression, returnByValue: true })).result.result.value;
  };
  await ask('Page.enable');
  let load = loading();
  await ask('Page.navigate', { url });
  await load;
  const before = await look();
  if (picture) {
    const shot = await ask('Page.captureScreenshot', { format: 'png' });
    writeFileSync(picture, Buffer.from(shot.result.data, 'base64'));
  }
  // With a mouse, where the button is: what covers it or moves it away is found.
  const place = 'JSON.stringify(document.querySelector("button").getBoundingClientRect())';
  const { x, y, width, height } = JSON.parse((await ask('Runtime.evaluate', { expression: place })).result.result.value);
  const at = { x: x + width / 2, y: y + height / 2, button: 'left', clickCount: 1 };
  load = loading();
  await ask('Input.dispatchMouseEvent', { type: 'mousePressed', ...at });
  await ask('Input.dispatchMouseEvent', { type: 'mouseReleased', ...at });
  await load;
  console.log(JSON.stringify({ before, after: await look() }));
}

main().then(() => end(0), (error) => end(1, String(error)));
