import { TradeScreen } from "@/components/trade-screen";

/** Served for /trade/SYMBOL, whatever the symbols are: the markets are known at run time only. */
export default function TradePage() {
  return <TradeScreen />;
}
