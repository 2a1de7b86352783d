/**
 * Two people trade on an exchange where nobody else does: scripts/frontend run browser/journey.mjs URL
 *
 * Sign up, fund, place a limit order, see it in the book and among the open orders, fill it from a second account, see balances and
 * trades change, cancel, reload; and lose messages of the book on the way.
 */
import assert from "node:assert/strict";

import { DESKTOP, PHONE, fund, order, signUp, withBrowser } from "./browser.mjs";

const [url] = process.argv.slice(2);
const market = `${url}/trade/BTCUSDT`;

const bid = (page, price) => page.getByTestId("bids").locator(`[data-price="${price}"]`);
const openOrders = (page) => page.getByTestId("open-orders").locator("tbody tr");
const balance = (page, asset, field, amount) =>
  page
    .locator(`[data-asset="${asset}"] [data-field="${field}"]`)
    .getByText(amount, { exact: true })
    .waitFor();
const show = (page, tab) => page.getByRole("tab", { name: tab }).click();
const gone = (locator) => locator.waitFor({ state: "detached" });

await withBrowser(async (newPage) => {
  const buyer = await newPage(DESKTOP);
  await buyer.goto(market);
  await buyer.getByText("Sign in to see your orders and balances.").waitFor();
  const email = await signUp(buyer);
  await fund(buyer);

  // A limit order rests: in the book, among the open orders, and its money is held.
  await order(buyer, { side: "Buy", price: "50000", quantity: "0.5" });
  await buyer.getByText("Order placed.").waitFor();
  await bid(buyer, "50,000.00").getByText("0.50000").first().waitFor();
  await balance(buyer, "USDT", "free", "75,000.00");
  await balance(buyer, "USDT", "locked", "25,000.00");
  await show(buyer, "Open orders");
  await openOrders(buyer).getByText("50,000.00").waitFor();

  // What the exchange would refuse is said before it is asked.
  await order(buyer, { side: "Buy", price: "50000", quantity: "0.4" });
  await buyer.getByText("Order placed.").waitFor();
  await buyer.getByLabel("Quantity").fill("99");
  await buyer.getByText("Not enough USDT.").waitFor();
  assert.equal(await buyer.getByRole("button", { name: "Buy BTC" }).isDisabled(), true);

  // A second person, on a phone, sells into it.
  const seller = await newPage(PHONE);
  await seller.goto(market);
  await signUp(seller);
  await fund(seller);
  await show(seller, "Book");
  await bid(seller, "50,000.00").getByText("0.90000").first().waitFor();
  await order(seller, { side: "Sell", kind: "Market", quantity: "0.6" });
  await seller.getByText("Filled. Sold 0.60000 BTC at 50,000.00 USDT.").waitFor();
  await show(seller, "Balances");
  await balance(seller, "BTC", "free", "9.40");
  await show(seller, "Trades");
  await seller.getByTestId("trades").getByText("0.50000").waitFor();
  const width = await seller.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.equal(width[0], width[1], "the phone's page is wider than its screen");

  // The first one sees all of it without doing anything.
  await buyer.getByTestId("trades").getByText("0.10000").waitFor();
  await buyer.getByTestId("last-price").getByText("50,000.00").waitFor();
  await bid(buyer, "50,000.00").getByText("0.30000").first().waitFor();
  await openOrders(buyer).getByText("0.10000").waitFor();
  assert.equal(await openOrders(buyer).count(), 1);
  await buyer.locator("[data-testid=chart]:not([data-candles='0'])").waitFor();
  await show(buyer, "Balances");
  await balance(buyer, "USDT", "locked", "15,000.00");

  // Still signed in after a reload; canceling gives the money back.
  await buyer.reload();
  await buyer.getByTestId("email").getByText(email).waitFor();
  await openOrders(buyer).getByRole("button", { name: "Cancel" }).click();
  await buyer.getByText("No open orders.").waitFor();
  await gone(bid(buyer, "50,000.00"));
  await gone(bid(seller, "50,000.00"));
  await show(buyer, "Balances");
  await balance(buyer, "USDT", "free", "70,000.00");

  // A page that loses messages notices, and takes the book anew.
  const watcher = await newPage(DESKTOP);
  let lost = 0;
  await watcher.routeWebSocket(/\/stream$/, (socket) => {
    const server = socket.connectToServer();
    server.onMessage((message) => {
      if (lost < 2 && String(message).includes("depthUpdate")) lost += 1;
      else socket.send(message);
    });
  });
  await watcher.goto(market);
  await watcher.getByText("Live", { exact: true }).waitFor();
  await watcher.waitForTimeout(500);
  for (const price of ["40000", "40001"]) {
    await order(buyer, { side: "Buy", price, quantity: "0.1" });
    await bid(buyer, `${Number(price).toLocaleString("en-US")}.00`).waitFor();
  }
  assert.equal(await watcher.getByTestId("bids").locator("button").count(), 0, "the messages were not lost");
  await order(buyer, { side: "Buy", price: "40002", quantity: "0.1" });
  for (const price of ["40,000.00", "40,001.00", "40,002.00"]) await bid(watcher, price).waitFor();
  assert.equal(lost, 2);

  // Signed out, nothing of the account is left on the page.
  await buyer.getByRole("button", { name: "Sign out" }).click();
  await buyer.getByText("Sign in to see your orders and balances.").waitFor();
  await buyer.reload();
  await buyer.getByRole("button", { name: "Sign in", exact: true }).waitFor();
});
