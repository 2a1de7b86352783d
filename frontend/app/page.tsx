import { MarketsTable } from "@/components/markets-table";

export default function MarketsPage() {
  return <MarketsTable />;
}
