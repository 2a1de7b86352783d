/**
 * What the page says when things go wrong: scripts/frontend run browser/honest.mjs URL
 *
 * On an exchange where nobody else trades. Answers get lost, servers freeze, networks are slow, clocks are wrong; whatever happens, the
 * page says nothing about money that is untrue. Each part is one of the faults that a review found in an earlier page.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHmac } from "node:crypto";

import { DESKTOP, fund, order, signUp, withBrowser } from "./browser.mjs";

const [url] = process.argv.slice(2);
const market = `${url}/trade/BTCUSDT`;

const form = (page) => page.getByRole("region", { name: "Order form" });
const said = (page) => form(page).getByRole("status");
const openOrders = (page) => page.getByTestId("open-orders").locator("tbody tr[data-order]");
const liveness = (page) => page.getByTestId("liveness");
const show = (page, tab) => page.getByRole("tab", { name: tab }).click();
const bid = (page, price) => page.getByTestId("bids").locator(`[data-price="${price}"]`);
const balance = (page, asset, field, amount) =>
  page
    .locator(`[data-asset="${asset}"] [data-field="${field}"]`)
    .getByText(amount, { exact: true })
    .waitFor();
const until = async (what, ask, withinMs = 20_000) => {
  const deadline = Date.now() + withinMs;
  while (!(await ask())) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
};
/** Return the token of the newest mail to an address, as its reader would find it. */
const newestToken = (email) => {
  const [command, ...before] = JSON.parse(process.env.COMMAND_OF_EXCHANGE);
  const mails = JSON.parse(
    execFileSync(command, [...before, "mails", "--to", email, "--json"], { encoding: "utf8" }),
  );
  return mails.at(-1).body.match(/or enter: (\S+)/)[1];
};
/** Return the code that a device with the secret shows, some half minutes from now. */
const totp = (secret, steps) => {
  const bits = [...secret]
    .map((letter) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0"))
    .join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const mac = createHmac("sha1", key).update(counter).digest();
  return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
};
const part = (name) => process.stdout.write(`${name}\n`);

await withBrowser(async (newPage) => {
  const buyer = await newPage(DESKTOP);
  await buyer.goto(market);

  part("who is not signed in is asked to, where it is needed");
  await form(buyer).getByRole("button", { name: "Sign in to trade" }).click();
  await buyer.getByRole("dialog").waitFor();
  await buyer.keyboard.press("Escape");
  await buyer.getByRole("dialog").waitFor({ state: "detached" });
  await signUp(buyer);
  await fund(buyer);

  const seller = await newPage(DESKTOP, 1, "Asia/Tokyo");
  await seller.goto(market);
  await signUp(seller);
  await fund(seller);

  part("a market order that is filled in part says how much, and at what price");
  await order(buyer, { side: "Buy", price: "50000", quantity: "0.5" });
  await said(buyer).getByText("Order placed.").waitFor();
  await order(buyer, { side: "Buy", price: "49000", quantity: "0.5" });
  await bid(seller, "49,000.00").waitFor();
  await order(seller, { side: "Sell", kind: "Market", quantity: "1.5" });
  await said(seller)
    .getByText("The book has 1.00000 BTC within 5.00% of the best price; the rest would expire.")
    .waitFor();
  await form(seller).getByRole("button", { name: "Sell anyway" }).click();
  await said(seller)
    .getByText(
      "Sold 1.00000 of 1.50000 BTC at 49,500.00 USDT. The rest expired: no more liquidity within the price limit.",
    )
    .waitFor();
  await show(seller, "Balances");
  await balance(seller, "BTC", "free", "9.00");

  part("trades and chart are in UTC, also elsewhere");
  const [newest] = await seller.evaluate(async () => {
    return (await fetch("/api/v3/trades?symbol=BTCUSDT&limit=1")).json();
  });
  const time = new Date(newest.time).toISOString().slice(11, 19);
  for (const page of [buyer, seller]) {
    await page.getByText("Time (UTC)").waitFor();
    assert.equal(await page.getByTestId("trades").locator("time").first().textContent(), time);
    await page.getByRole("region", { name: "Chart" }).getByText("UTC", { exact: true }).waitFor();
  }

  part("an order that is placed while an older answer is on its way stays, and so does its money");
  let held = null;
  await buyer.route(/\/api\/v3\/openOrders/, async (route) => {
    const answer = await route.fetch();
    if (held === null) await new Promise((done) => (held = done));
    await route.fulfill({ response: answer });
  });
  await buyer.getByRole("button", { name: "Get test funds" }).click(); // which asks for balances and orders
  await until("the question is on its way", () => held !== null);
  await show(buyer, "Open orders");
  await order(buyer, { side: "Buy", price: "40000", quantity: "0.25" });
  await until("its row", async () => (await openOrders(buyer).count()) === 1);
  held();
  await buyer.waitForTimeout(2_000);
  assert.equal(await openOrders(buyer).count(), 1, "the order is gone from the page");
  await show(buyer, "Balances");
  await balance(buyer, "USDT", "locked", "10,000.00");
  await buyer.unroute(/\/api\/v3\/openOrders/);

  part("amounts that can be read in two ways are refused, as the page writes them they are read");
  await form(buyer).getByLabel("Price").fill("40,000.00");
  await form(buyer).getByLabel("Quantity").fill("1,000");
  await said(buyer).getByText("The quantity can be 1000 or 1.000: write it so.").waitFor();
  assert.equal(await form(buyer).getByRole("button", { name: "Buy BTC" }).isDisabled(), true);
  await form(buyer).getByLabel("Quantity").fill("0,125");
  await form(buyer).getByText("5,000.00 USDT").waitFor();

  part("a price far from the market is asked about before it is sent");
  await order(seller, { side: "Sell", price: "60000", quantity: "1" });
  await said(seller).getByText("Order placed.").waitFor();
  await until("the offer", async () => (await buyer.getByTestId("asks").locator("button").count()) === 1);
  await order(buyer, { side: "Buy", price: "240000", quantity: "0.001" });
  await said(buyer)
    .getByText("The price is 300.00% above the best one, 60,000.00. Press again to confirm.")
    .waitFor();
  await buyer.waitForTimeout(500);
  await show(buyer, "Open orders");
  assert.equal(await openOrders(buyer).count(), 1, "it was sent without being asked about");
  await form(buyer).getByLabel("Price").fill("59000");
  await form(buyer).getByRole("button", { name: "Buy BTC" }).waitFor();

  await seller.close();

  part("the same price clicked again is taken again");
  await bid(buyer, "40,000.00").click();
  assert.equal(await form(buyer).getByLabel("Price").inputValue(), "40000.00");
  await form(buyer).getByLabel("Price").fill("12345");
  await bid(buyer, "40,000.00").click();
  assert.equal(await form(buyer).getByLabel("Price").inputValue(), "40000.00");

  // Two stories on one book that do not touch each other, at the same time: both mostly wait.
  const ordersGoWrong = async () => {
    part("whose address is not verified is told so, and not that the exchange is away");
    const stranger = await newPage(DESKTOP);
    await stranger.goto(market);
    await stranger.route(/\/api\/v1\/tickets/, (route) =>
      route.fulfill({
        status: 403,
        contentType: "application/json",
        body: JSON.stringify({
          code: -1002,
          msg: "Verify the address of this account first: it was sent a mail.",
        }),
      }),
    );
    const strangersAddress = await signUp(stranger);
    await stranger
      .getByTestId("unverified")
      .getByText(`Verify your address to trade: open the link in the mail to ${strangersAddress}.`)
      .waitFor();
    assert.equal(await stranger.getByText("is not responding").count(), 0);
    await stranger.getByRole("button", { name: "Resend email" }).click();
    await stranger.getByText("Email sent").waitFor();
    await stranger.unroute(/\/api\/v1\/tickets/);
    await stranger.goto(`${market}?verification=${newestToken(strangersAddress)}`);
    await stranger.getByText("Your email address is verified.").waitFor();
    await stranger.getByText("No open orders.").waitFor();
    await stranger.close();

    part("an order whose answer is lost is looked up, and is there once");
    let sent = 0;
    const isOrder = (request) => request.method() === "POST" && /\/api\/v3\/order\?/.test(request.url());
    await buyer.route(/\/api\/v3\/order\?/, async (route) => {
      if (!isOrder(route.request())) return route.continue();
      sent += 1;
      await route.fetch();
      await route.abort("connectionreset");
    });
    let answersLookups = false;
    const lookups = /origClientOrderId=/;
    await buyer.route(lookups, (route) =>
      answersLookups ? route.continue() : route.abort("connectionreset"),
    );
    await order(buyer, { side: "Buy", price: "41000", quantity: "0.1" });
    await form(buyer).getByRole("button", { name: "Looking up the order …" }).waitFor();
    assert.equal(
      await form(buyer).getByRole("button", { name: "Looking up the order …" }).isDisabled(),
      true,
    );
    await form(buyer).getByLabel("Quantity").press("Enter");
    await buyer.waitForTimeout(1_500);
    answersLookups = true;
    await said(buyer).getByText("Order placed.").waitFor();
    assert.equal(sent, 1, "it was sent again");
    await until("one row more", async () => (await openOrders(buyer).count()) === 2);

    part("so it is when the page is loaded anew meanwhile");
    answersLookups = false;
    await order(buyer, { side: "Buy", price: "41500", quantity: "0.1" });
    await form(buyer).getByRole("button", { name: "Looking up the order …" }).waitFor();
    await buyer.reload();
    await form(buyer).getByRole("button", { name: "Looking up the order …" }).waitFor();
    answersLookups = true;
    await said(buyer).getByText("Order placed.").waitFor();
    await until("one row more", async () => (await openOrders(buyer).count()) === 3);
    await buyer.unroute(/\/api\/v3\/order\?/);
    await buyer.unroute(lookups);

    part("an order that never arrived is said not to have, when it cannot any more");
    await buyer.route(/\/api\/v3\/order\?/, (route) =>
      isOrder(route.request()) ? route.abort("connectionreset") : route.continue(),
    );
    await order(buyer, { side: "Buy", price: "42000", quantity: "0.1" });
    await form(buyer).getByRole("button", { name: "Looking up the order …" }).waitFor();
    await said(buyer)
      .getByText("The order was not received and can no longer be. Nothing was traded.")
      .waitFor();
    assert.equal(await openOrders(buyer).count(), 3);
    await buyer.unroute(/\/api\/v3\/order\?/);

    part("a cancel that fails says so");
    await buyer.route(/\/api\/v3\/order\?/, (route) =>
      route.request().method() === "DELETE"
        ? route.fulfill({
            status: 503,
            contentType: "application/json",
            headers: { "Access-Control-Allow-Origin": "*" },
            body: '{"code":-1008,"msg":"Server is currently overloaded."}',
          })
        : route.continue(),
    );
    await openOrders(buyer).first().getByRole("button", { name: "Cancel" }).click();
    await buyer.getByRole("alert").getByText("Not canceled: Server is currently overloaded.").waitFor();
    await buyer.unroute(/\/api\/v3\/order\?/);
    await openOrders(buyer).first().getByRole("button", { name: "Cancel" }).click();
    await until("one row less", async () => (await openOrders(buyer).count()) === 2);
  };
  const marketDataGoesWrong = async () => {
    part("a wrong clock, and a clock that is set, keep nobody from trading");
    const wrong = await newPage(DESKTOP, 1, "America/New_York");
    await wrong.addInitScript(() => {
      const now = Date.now.bind(Date);
      window.shiftMs = 3_600_000;
      Date.now = () => now() + window.shiftMs;
    });
    await wrong.route(/\/api\/v3\/exchangeInfo/, async (route) => {
      await new Promise((done) => setTimeout(done, 4_000)); // slow on its way up
      await route.continue();
    });
    await wrong.goto(market);
    await signUp(wrong);
    await fund(wrong);
    await order(wrong, { side: "Buy", price: "30000", quantity: "0.1" });
    await said(wrong).getByText("Order placed.").waitFor();
    await wrong.evaluate(() => void (window.shiftMs = -7_200_000));
    await order(wrong, { side: "Buy", price: "30001", quantity: "0.1" });
    await said(wrong).getByText("Order placed.").waitFor();

    part("a frozen server is not called live, and polling stays within its budget");
    const frozen = await newPage(DESKTOP);
    let isFrozen = false;
    let connections = 0;
    await frozen.routeWebSocket(/./, (socket) => {
      connections += 1;
      if (isFrozen) return; // the connection opens, and nothing ever comes
      const server = socket.connectToServer();
      server.onMessage((message) => void (isFrozen || socket.send(message)));
      socket.onMessage((message) => void (isFrozen || server.send(message)));
    });
    await frozen.goto(market);
    await liveness(frozen).getByText("Live", { exact: true }).waitFor();
    const before = connections;
    isFrozen = true;
    await liveness(frozen).getByText("Polling", { exact: true }).waitFor();
    await until("another connection", () => connections > before);
    let weight = 0;
    const weights = [
      [/\/depth\?/, 5],
      [/\/trades\?/, 25],
      [/\/klines\?/, 2],
      [/\/ticker\/24hr\?/, 2],
      [/\/account\?/, 20],
      [/\/openOrders\?/, 80],
    ];
    frozen.on("request", (request) =>
      weights.forEach(([path, of]) => void (path.test(request.url()) && (weight += of))),
    );
    await order(wrong, { side: "Buy", price: "43000", quantity: "0.1" });
    await bid(frozen, "43,000.00").waitFor();
    await frozen.waitForTimeout(10_000);
    assert.ok(weight > 0 && weight < 300, `${weight} in ten seconds is too much for a minute's 6,000`);

    part("a refusal is heeded for as long as it says");
    let refused = 0;
    await frozen.route(/\/api\/v3\//, (route) => {
      refused += 1;
      return route.fulfill({
        status: 429,
        contentType: "application/json",
        body: '{"code":-1003,"msg":"Too many requests."}',
        headers: {
          "Access-Control-Allow-Origin": "*",
          "Access-Control-Expose-Headers": "Retry-After",
          "Retry-After": "8",
        },
      });
    });
    await until("a refusal", () => refused > 0);
    await frozen.waitForTimeout(1_000);
    const asked = refused;
    await frozen.waitForTimeout(5_000);
    assert.equal(refused, asked, "it went on asking");

    part("market data that stands still is not called live, although the server answers");
    const still = await newPage(DESKTOP);
    let standsStill = false;
    await still.routeWebSocket(/\/stream$/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage(
        (message) => void ((standsStill && String(message).startsWith('{"stream"')) || socket.send(message)),
      );
    });
    await still.goto(market);
    await liveness(still).getByText("Live", { exact: true }).waitFor();
    await still.waitForTimeout(4_000);
    standsStill = true;
    await liveness(still)
      .getByText(/^No data for \d+ s$/)
      .waitFor();
    standsStill = false;
    await liveness(still).getByText("Live", { exact: true }).waitFor();
    await still.close();

    part("when nothing answers, it says since when");
    await frozen.unroute(/\/api\/v3\//);
    await frozen.route(/\/api\/v3\//, () => undefined);
    await liveness(frozen)
      .getByText(/^No data for \d+ s$/)
      .waitFor({ timeout: 30_000 });
    isFrozen = false;
    await frozen.unroute(/\/api\/v3\//);
    await liveness(frozen).getByText("Live", { exact: true }).waitFor({ timeout: 30_000 });
    await wrong.close();
  };
  await Promise.all([ordersGoWrong(), marketDataGoesWrong()]);

  part("another tab is signed in, and signed out with the others");
  const other = await buyer.context().newPage();
  await other.goto(`${url}/trade/ETHUSDT`);
  await other.getByTestId("email").waitFor();

  part("a session that was ended elsewhere is over, in every tab, and nothing of it is left in the browser");
  assert.equal(
    await buyer.evaluate(() => JSON.stringify([sessionStorage, localStorage]).match(/token|secret|apiKey/i)),
    null,
  );
  assert.equal(await buyer.evaluate(() => document.cookie), "");
  await buyer.evaluate(async () => {
    const { csrfToken } = await (await fetch("/api/v1/me")).json();
    await fetch("/api/v1/signout", { method: "POST", headers: { "X-CSRF-Token": csrfToken } });
  });
  await until("it is signed out", () =>
    buyer.getByText("Signed out: the session expired or was ended elsewhere.").isVisible(),
  );
  await other.getByRole("button", { name: "Sign in", exact: true }).waitFor();

  part("a forgotten password is chosen anew by a mail, and a second factor is asked for");
  const forgetful = await newPage(DESKTOP);
  await forgetful.goto(market);
  const email = await signUp(forgetful);
  await forgetful.goto(`${market}?verification=${newestToken(email)}`);
  await forgetful.getByText("Your email address is verified.").waitFor();
  assert.equal(new URL(forgetful.url()).search, "");
  await forgetful.getByTestId("email").getByText(email).waitFor();
  const secret = await forgetful.evaluate(async () => {
    const { csrfToken } = await (await fetch("/api/v1/me")).json();
    const headers = { "X-CSRF-Token": csrfToken, "Content-Type": "application/json" };
    return (
      await (
        await fetch("/api/v1/totp", {
          method: "POST",
          headers,
          body: JSON.stringify({ password: "correct horse battery" }),
        })
      ).json()
    ).secret;
  });
  await forgetful.evaluate(
    async (code) => {
      const { csrfToken } = await (await fetch("/api/v1/me")).json();
      const headers = { "X-CSRF-Token": csrfToken, "Content-Type": "application/json" };
      await fetch("/api/v1/totp/confirm", { method: "POST", headers, body: JSON.stringify({ code }) });
    },
    totp(secret, -1),
  );
  await forgetful.getByRole("button", { name: "Sign out" }).click();
  await forgetful.getByRole("button", { name: "Sign in", exact: true }).first().click();
  await forgetful.getByRole("button", { name: "Forgot password?" }).click();
  await forgetful.getByLabel("Email").fill(email);
  await forgetful.getByRole("button", { name: "Send reset link" }).click();
  await forgetful.getByText("If an account with this address exists, an email has been sent.").waitFor();
  await forgetful.goto(`${market}?reset=${newestToken(email)}`);
  await forgetful.getByLabel("New password").fill("an entirely different staple");
  await forgetful.getByRole("button", { name: "Set password" }).click();
  await forgetful.getByLabel("Authenticator code").fill(totp(secret, 0));
  await forgetful.getByRole("button", { name: "Set password" }).click();
  await forgetful.getByText("Password changed. Sign in with the new password.").waitFor();
  await forgetful.getByLabel("Email").fill(email);
  await forgetful.getByLabel("Password").fill("an entirely different staple");
  const signIn = forgetful.getByRole("dialog").getByRole("button", { name: "Sign in", exact: true });
  await signIn.click();
  await forgetful.getByLabel("Authenticator code").fill(totp(secret, 1));
  await signIn.click();
  await forgetful.getByTestId("email").getByText(email).waitFor();
});
