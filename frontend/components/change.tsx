import { changeBasisPoints, showPercent } from "@/lib/units";
import type { Ticker } from "@/lib/market-data";

/** The change over 24 h, green or red. */
export function Change({ ticker }: { ticker: Ticker | undefined }) {
  if (ticker === undefined || ticker.last === 0n) return <span className="text-quiet">–</span>;
  const change = changeBasisPoints(ticker.open, ticker.last);
  return (
    <span className={change > 0 ? "text-up" : change < 0 ? "text-down" : "text-text"}>
      {showPercent(change)}
    </span>
  );
}
